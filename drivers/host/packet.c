/* What can be done with one packet: length, copy, checksum, offload fields. Spec: virtio 1.2 5.1.6.2, RFC 1071. */
#include "ring.h"

uint32_t dpu_buf_length(const struct dpu_buf *buf) {
    uint32_t length = 0;
    for (; buf; buf = buf->next)
        length += buf->len;
    return length;
}

uint32_t dpu_buf_read(const struct dpu_buf *buf, void *octets, uint32_t size) {
    uint32_t done = 0;
    for (; buf && done < size; buf = buf->next) {
        uint32_t part = buf->len < size - done ? buf->len : size - done;
        memcpy((uint8_t *)octets + done, buf->data, part);
        done += part;
    }
    return done;
}

/* Add octets to a one's complement sum; `odd`: they start at an odd octet of what is summed. */
static uint64_t add_octets(uint64_t sum, const uint8_t *octets, uint32_t size, bool odd) {
    uint64_t part = 0;
    uint32_t i = 0;
    for (; i + 4 <= size; i += 4) {
        uint32_t word;
        memcpy(&word, octets + i, sizeof word);
        part += word;
    }
    for (; i < size; i++)
        part += (uint64_t)octets[i] << 8 * (i & 1);
    while (part >> 16)
        part = (part & 0xffff) + (part >> 16);
    if (odd) /* RFC 1071 2 (B): the sum of swapped octets is the swapped sum */
        part = ((part & 0xff) << 8) | part >> 8;
    return sum + part;
}

/* Where octet `position` of a packet lies, NULL behind its end. */
static uint8_t *octet_at(struct dpu_buf *buf, uint32_t position) {
    for (; buf; buf = buf->next) {
        if (position < buf->len)
            return buf->data + position;
        position -= buf->len;
    }
    return NULL;
}

int dpu_buf_checksum(struct dpu_buf *buf) {
    if (!(buf->flags & DPU_BUF_NEEDS_CSUM))
        return DPU_OK;
    uint32_t place = (uint32_t)buf->csum_start + buf->csum_offset;
    uint8_t *low = octet_at(buf, place), *high = octet_at(buf, place + 1);
    if (!low || !high)
        return DPU_EINVAL;
    uint64_t sum = 0;
    uint32_t skip = buf->csum_start, summed = 0;
    for (struct dpu_buf *piece = buf; piece; piece = piece->next) {
        uint32_t begin = skip < piece->len ? skip : piece->len;
        skip -= begin;
        sum = add_octets(sum, piece->data + begin, piece->len - begin, summed & 1);
        summed += piece->len - begin;
    }
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    uint16_t checksum = (uint16_t)~sum;
    if (!checksum) /* RFC 768: zero says that there is none */
        checksum = 0xffff;
    *low = (uint8_t)checksum;
    *high = (uint8_t)(checksum >> 8);
    buf->flags &= (uint8_t)~DPU_BUF_NEEDS_CSUM;
    return DPU_OK;
}

static bool checksum_fits(const struct dpu_buf *buf, uint32_t length) {
    return (uint32_t)buf->csum_start + buf->csum_offset + 2 <= length;
}

/* Take over what the header of a received packet says; false: it cannot be. */
bool dpu_rx_offload(struct dpu_buf *buf, const struct vnet_hdr *header, uint32_t length) {
    uint8_t type = header->gso_type & (uint8_t)~DPU_GSO_ECN;
    buf->flags = header->flags & (DPU_BUF_NEEDS_CSUM | DPU_BUF_DATA_VALID);
    buf->gso_type = type ? header->gso_type : DPU_GSO_NONE;
    if (buf->flags & DPU_BUF_NEEDS_CSUM) {
        buf->csum_start = header->csum_start;
        buf->csum_offset = header->csum_offset;
        if (!checksum_fits(buf, length))
            return false;
    }
    if (type) {
        buf->gso_size = header->gso_size;
        buf->hdr_len = header->hdr_len;
        if (!buf->gso_size || (type != DPU_GSO_TCPV4 && type != DPU_GSO_TCPV6 && type != DPU_GSO_UDP))
            return false;
    }
    return true;
}

static uint64_t feature_of(uint8_t gso_type) {
    uint64_t ecn = gso_type & DPU_GSO_ECN ? F_HOST_ECN : 0;
    switch (gso_type & (uint8_t)~DPU_GSO_ECN) {
    case DPU_GSO_TCPV4: return F_HOST_TSO4 | ecn;
    case DPU_GSO_TCPV6: return F_HOST_TSO6 | ecn;
    case DPU_GSO_UDP: return F_HOST_USO;
    default: return ~0ULL;
    }
}

/* Bring the offload fields of a packet into what was negotiated; false: it cannot be sent. */
bool dpu_tx_prepare(struct queue *queue, struct dpu_buf *buf, uint32_t length) {
    bool owed = buf->flags & DPU_BUF_NEEDS_CSUM;
    if (owed && !checksum_fits(buf, length))
        return false;
    if (buf->gso_type) {
        uint64_t needed = feature_of(buf->gso_type);
        return owed && buf->gso_size && (queue->features & needed) == needed;
    }
    buf->gso_size = buf->hdr_len = 0;
    if (owed && !(queue->features & F_CSUM)) {
        queue->stats.tx_checksums++;
        owed = dpu_buf_checksum(buf) != DPU_OK;
    }
    if (!owed)
        buf->csum_start = buf->csum_offset = 0;
    return true;
}
