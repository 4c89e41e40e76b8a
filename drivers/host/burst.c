/* Receive and transmit bursts of a queue. Spec: virtio 1.2 2.7.13, 2.7.14, 5.1.6. */
#define _GNU_SOURCE
#include <unistd.h>

#include "ring.h"

#define LOOK_AHEAD 4     /* packets whose headers are on their way from the other core's cache */
#define RECLAIM_AT 64    /* descriptors on the transmit ring before used ones are looked for */
#define FRAME_BYTES_MIN 14

static void kick(struct queue *queue, struct ring *ring) {
    uint64_t one = 1;
    if (write(ring->kick_fd, &one, sizeof one) > 0)
        queue->stats.kicks++;
}

/* Make empty buffers available, as many as the ring and the pool have. */
void dpu_rx_refill(struct queue *queue) {
    struct ring *ring = &queue->rx;
    struct dpu_buf *bufs[PENDING_BULK];
    uint64_t offset = queue->port->address_offset;
    uint32_t len = queue->port->options.buf_size + VNET_HDR_BYTES;
    while (ring->free_count) {
        uint32_t want = ring->free_count < PENDING_BULK ? ring->free_count : PENDING_BULK;
        uint32_t got = pool_take(queue, bufs, want);
        for (uint32_t i = 0; i < got; i++) {
            uint16_t id = ring_take_id(ring);
            uint8_t *header = bufs[i]->base + DPU_HEADROOM;
            ring->slots[id] = (struct slot){bufs[i], header};
            ring->desc[id] = (struct vring_desc){(uint64_t)(uintptr_t)header + offset, len, DESC_F_WRITE, 0};
            ring_make_available(ring, id);
        }
        ring->bufs += got;
        if (got < want)
            break;
    }
    if (ring->avail_idx != ring->kick_from && ring_publish(ring, queue->features))
        kick(queue, ring);
}

/* Take the buffer of the next used element, NULL if that names none. */
static inline struct dpu_buf *take_received(struct ring *ring, uint32_t *len) {
    struct vring_used_elem elem = ring_used_elem(ring, ring->last_used);
    if (unlikely(elem.id >= ring->size || !ring->slots[elem.id].buf))
        return NULL;
    struct dpu_buf *buf = ring->slots[elem.id].buf;
    ring->slots[elem.id].buf = NULL;
    ring_put_id(ring, elem.id);
    ring->last_used++;
    ring->heads--;
    ring->bufs--;
    *len = elem.len;
    return buf;
}

/* Append the `more` further buffers of a packet; false: one cannot be. */
static bool take_merged(struct queue *queue, struct dpu_buf *head, uint32_t more, uint32_t *length) {
    struct dpu_buf *last = head;
    uint32_t room = queue->port->options.buf_size + VNET_HDR_BYTES;
    bool good = true;
    while (more--) {
        uint32_t len;
        struct dpu_buf *buf = take_received(&queue->rx, &len);
        if (!buf)
            return false;
        buf_reset(buf);
        buf->data = buf->base + DPU_HEADROOM; /* only the first has a header */
        good = good && len && len <= room;
        buf->len = len;
        *length += len;
        last->next = buf;
        last = buf;
        head->segments++;
    }
    return good && *length <= DPU_FRAME_MAX;
}

static bool packet_is_good(struct queue *queue, struct dpu_buf *buf, uint32_t used_len, uint32_t ready) {
    struct vnet_hdr header;
    memcpy(&header, buf->base + DPU_HEADROOM, sizeof header);
    atomic_signal_fence(memory_order_seq_cst); /* read once: what is checked is what is used */
    uint32_t length = used_len - VNET_HDR_BYTES;
    buf_reset(buf);
    buf->len = length;
    buf->segments = 1;
    if (unlikely(used_len < VNET_HDR_BYTES + FRAME_BYTES_MIN || length > buf->capacity))
        return false;
    if (header.num_buffers != 1 && queue->features & F_MRG_RXBUF) {
        if (header.num_buffers == 0 || header.num_buffers > ready)
            return false;
        if (!take_merged(queue, buf, header.num_buffers - 1u, &length))
            return false;
    }
    if (unlikely(header.flags | header.gso_type) && !dpu_rx_offload(buf, &header, length))
        return false;
    queue->stats.rx_bytes += length;
    return true;
}

/* Take packets off the ring; DPU_EPROTO: the used ring makes no sense from here on. */
int dpu_rx_reap(struct queue *queue, struct dpu_buf **bufs, int count) {
    struct ring *ring = &queue->rx;
    uint16_t used = ring_used_idx(ring);
    int got = 0;
    int64_t pieces = 0;
    if ((uint16_t)(used - ring->last_used) > ring->heads)
        return DPU_EPROTO;
    while (got < count && ring->last_used != used) {
        uint16_t ready = (uint16_t)(used - ring->last_used);
        if (ready > LOOK_AHEAD) {
            struct slot *ahead = &ring->slots[ring_used_elem(ring, (uint16_t)(ring->last_used + LOOK_AHEAD)).id & ring->mask];
            __builtin_prefetch(ahead->header);
            __builtin_prefetch(ahead->buf, 1);
        }
        uint32_t len;
        struct dpu_buf *buf = take_received(ring, &len);
        if (unlikely(!buf))
            return got ? got : DPU_EPROTO;
        if (likely(packet_is_good(queue, buf, len, ready))) {
            pieces += buf->segments;
            bufs[got++] = buf;
        } else {
            queue->stats.rx_errors++;
            pool_put_packet(queue, buf);
        }
    }
    queue->stats.rx_packets += (uint64_t)got;
    queue->app += pieces;
    return got;
}

/* Take packets that a former connection left. */
int dpu_rx_pending(struct queue *queue, struct dpu_buf **bufs, int count) {
    int got = 0;
    while (got < count && queue->pending_count) {
        struct dpu_buf *buf = queue->pending[queue->pending_first++];
        queue->pending_count--;
        queue->pending_bufs -= buf->segments;
        queue->app += buf->segments;
        bufs[got++] = buf;
    }
    return got;
}

/* A burst moved nothing: look now and then whether the other side is still there. */
static int idle(struct queue *queue) {
    if (likely(++queue->idle < LINK_CHECK_EVERY))
        return 0;
    queue->idle = 0;
    if (dpu_socket_ended(queue->port))
        return dpu_link_lost(queue->port, queue->generation, DPU_ELINK, "the DPU closed the connection");
    return 0;
}

int dpu_rx_burst(struct dpu_port *port, int number, struct dpu_buf **bufs, int count) {
    if (unlikely(number < 0 || (uint32_t)number >= port->options.queues || count < 0))
        return DPU_EINVAL;
    struct queue *queue = &port->queues[number];
    int code = DPU_OK;
    if (unlikely(queue->generation != atomic_load_explicit(&port->generation, memory_order_acquire)))
        code = dpu_recover(queue);
    if (unlikely(queue->pending_count) && count)
        return dpu_rx_pending(queue, bufs, count);
    int got = dpu_rx_reap(queue, bufs, count);
    if (unlikely(code))
        return got > 0 ? got : code;
    if (unlikely(got < 0))
        return dpu_link_lost(port, queue->generation, got, "a used element of a receive ring names no buffer of it");
    if (queue->rx.free_count >= RX_REFILL)
        dpu_rx_refill(queue);
    return got ? got : idle(queue);
}

/* Take back what was sent. DPU_EPROTO: the used ring makes no sense. */
int dpu_tx_reclaim(struct queue *queue) {
    struct ring *ring = &queue->tx;
    uint16_t used = ring_used_idx(ring);
    if ((uint16_t)(used - ring->last_used) > ring->heads)
        return DPU_EPROTO;
    while (ring->last_used != used) {
        uint32_t id = ring_used_elem(ring, ring->last_used).id;
        if (unlikely(id >= ring->size || !ring->slots[id].buf))
            return DPU_EPROTO;
        struct dpu_buf *buf = ring->slots[id].buf;
        ring->slots[id].buf = NULL;
        ring_put_id(ring, id);
        for (struct dpu_buf *piece = buf->next; unlikely(piece != NULL); piece = piece->next) {
            id = ring->chain[id];
            ring_put_id(ring, id);
        }
        ring->bufs -= pool_put_packet(queue, buf);
        ring->heads--;
        ring->last_used++;
    }
    return DPU_OK;
}

/* Put a chain on the ring; there is room. */
static void post_chain(struct queue *queue, struct dpu_buf *buf, uint16_t id) {
    struct ring *ring = &queue->tx;
    for (struct dpu_buf *piece = buf->next; piece; piece = piece->next) {
        uint16_t next = ring_take_id(ring);
        ring->desc[id].flags = DESC_F_NEXT;
        ring->desc[id].next = next;
        ring->chain[id] = next;
        ring->desc[next] = (struct vring_desc){(uint64_t)(uintptr_t)piece->data + queue->port->address_offset,
                                               piece->len, 0, 0};
        id = next;
    }
}

static inline bool post(struct queue *queue, struct dpu_buf *buf, uint64_t offset) {
    struct ring *ring = &queue->tx;
    if (unlikely(ring->free_count < buf->segments))
        return false;
    uint8_t *header = buf->data - VNET_HDR_BYTES;
    struct vnet_hdr fields = {buf->flags & DPU_BUF_NEEDS_CSUM, buf->gso_type, buf->hdr_len, buf->gso_size,
                              buf->csum_start, buf->csum_offset, 0};
    memcpy(header, &fields, sizeof fields);
    uint16_t id = ring_take_id(ring);
    ring->slots[id].buf = buf;
    ring->desc[id] = (struct vring_desc){(uint64_t)(uintptr_t)header + offset, buf->len + VNET_HDR_BYTES, 0, 0};
    if (unlikely(buf->next != NULL))
        post_chain(queue, buf, id);
    ring_make_available(ring, id);
    ring->bufs += buf->segments;
    return true;
}

bool dpu_tx_post(struct queue *queue, struct dpu_buf *buf) {
    return post(queue, buf, queue->port->address_offset);
}

/* Length of a packet that may be sent, 0 if it may not; counts its pieces. */
static inline uint32_t sendable(struct queue *queue, struct dpu_buf *buf) {
    uint32_t length = buf->len, segments = 1;
    uint64_t stride = queue->port->stride;
    bool inside = (uint64_t)(buf->data - VNET_HDR_BYTES - buf->base) < stride &&
                  (uint64_t)(buf->data - buf->base) + buf->len <= stride;
    for (struct dpu_buf *piece = buf->next; unlikely(piece != NULL); piece = piece->next) {
        length += piece->len;
        segments++;
        uint64_t begin = (uint64_t)(piece->data - piece->base);
        inside = inside && piece->len && begin < stride && begin + piece->len <= stride;
    }
    buf->segments = (uint16_t)segments;
    if (unlikely(!inside || segments > DPU_SEGMENTS_MAX || length < FRAME_BYTES_MIN || length > DPU_FRAME_MAX))
        return 0;
    if (likely(!(buf->flags | buf->gso_type))) {
        memset(&buf->csum_start, 0, 8); /* 5.1.6.2: zero where nothing is asked for */
        return length;
    }
    return dpu_tx_prepare(queue, buf, length) ? length : 0;
}

int dpu_tx_burst(struct dpu_port *port, int number, struct dpu_buf **bufs, int count) {
    if (unlikely(number < 0 || (uint32_t)number >= port->options.queues || count < 0))
        return DPU_EINVAL;
    struct queue *queue = &port->queues[number];
    struct ring *ring = &queue->tx;
    if (unlikely(queue->generation != atomic_load_explicit(&port->generation, memory_order_acquire))) {
        int code = dpu_recover(queue);
        if (code)
            return code;
    }
    if (ring->bufs >= RECLAIM_AT && unlikely(dpu_tx_reclaim(queue)))
        return dpu_link_lost(port, queue->generation, DPU_EPROTO, "a used element of a transmit ring names no packet");
    uint64_t bytes = 0, offset = port->address_offset, packets = 0;
    int64_t pieces = 0;
    int sent = 0;
    for (; sent < count; sent++) {
        struct dpu_buf *buf = bufs[sent];
        uint32_t length = sendable(queue, buf);
        if (unlikely(!length)) {
            queue->stats.tx_errors++;
            pieces += pool_put_packet(queue, buf);
            continue;
        }
        if (unlikely(!post(queue, buf, offset)))
            break;
        bytes += length;
        packets++;
        pieces += buf->segments;
    }
    if (packets && ring_publish(ring, queue->features))
        kick(queue, ring);
    queue->app -= pieces;
    queue->stats.tx_packets += packets;
    queue->stats.tx_bytes += bytes;
    queue->stats.tx_full += (uint64_t)(count - sent);
    return sent || !count ? sent : idle(queue);
}
