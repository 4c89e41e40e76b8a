/* One message of the vhost-user protocol, and its answer.
 *
 * Spec: vhost-user, "Message Specification", "REPLY_ACK".
 * An answer that does not come, or is none, ends the connection: what follows it could not be told from it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "requests.h"

static const char *const REQUEST_NAMES[] = {
    [GET_FEATURES] = "GET_FEATURES",
    [SET_FEATURES] = "SET_FEATURES",
    [SET_OWNER] = "SET_OWNER",
    [SET_MEM_TABLE] = "SET_MEM_TABLE",
    [SET_VRING_NUM] = "SET_VRING_NUM",
    [SET_VRING_ADDR] = "SET_VRING_ADDR",
    [SET_VRING_BASE] = "SET_VRING_BASE",
    [GET_VRING_BASE] = "GET_VRING_BASE",
    [SET_VRING_KICK] = "SET_VRING_KICK",
    [SET_VRING_CALL] = "SET_VRING_CALL",
    [GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
    [SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
    [GET_QUEUE_NUM] = "GET_QUEUE_NUM",
    [SET_VRING_ENABLE] = "SET_VRING_ENABLE",
};

#define VERSION 1u
#define FLAG_REPLY 4u
#define FLAG_NEED_REPLY 8u

struct message {
    uint32_t request, flags, size;
    union {
        uint64_t u64;
        struct { uint32_t index, value; } state;
        struct {
            uint32_t index, flags;
            uint64_t desc, used, avail, log;
        } address;
        struct {
            uint32_t count, padding;
            struct { uint64_t guest, size, user, offset; } region;
        } memory;
    } __attribute__((packed));
} __attribute__((packed));
#define HEAD_BYTES 12

static int send_message(struct dpu_port *port, const struct message *message, int fd) {
    union {
        char octets[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = (void *)message, .iov_len = HEAD_BYTES + message->size};
    struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        memset(&control, 0, sizeof control);
        head.msg_control = control.octets;
        head.msg_controllen = sizeof control.octets;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&head);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t sent;
    do
        sent = sendmsg(port->socket_fd, &head, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent == (ssize_t)part.iov_len)
        return DPU_OK;
    const char *name = REQUEST_NAMES[message->request];
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return dpu_fail(port, DPU_ETIMEOUT, "%s: not read in %u ms", name, port->options.timeout_ms);
    return dpu_fail(port, DPU_ELINK, "%s: %s", name, sent < 0 ? strerror(errno) : "sent in part");
}

/* Read exactly `size` octets; the socket has a receive timeout. */
static int receive(struct dpu_port *port, const char *name, void *octets, size_t size) {
    size_t have = 0;
    while (have < size) {
        ssize_t got = recv(port->socket_fd, (char *)octets + have, size - have, 0);
        if (got > 0) {
            have += (size_t)got;
        } else if (got == 0) {
            return dpu_fail(port, DPU_ELINK, "%s: the DPU closed the connection", name);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return dpu_fail(port, DPU_ETIMEOUT, "%s: no answer in %u ms", name, port->options.timeout_ms);
        } else if (errno != EINTR) {
            return dpu_fail(port, DPU_ELINK, "%s: %s", name, strerror(errno));
        }
    }
    return DPU_OK;
}

/* Read the answer to `request`, whose payload has `size` octets. */
static int receive_answer(struct dpu_port *port, uint32_t request, void *payload, uint32_t size) {
    const char *name = REQUEST_NAMES[request];
    uint32_t head[3];
    int code = receive(port, name, head, sizeof head);
    if (code)
        return code;
    if (head[0] != request || (head[1] & 3) != VERSION || !(head[1] & FLAG_REPLY) || head[2] != size)
        return dpu_fail(port, DPU_EPROTO, "%s: answered by request %u, flags %#x, %u octets", name, head[0], head[1],
                        head[2]);
    return receive(port, name, payload, size);
}

/* Send a message that has no answer of its own; with REPLY_ACK ask whether it was done. */
static int send_and_confirm(struct dpu_port *port, struct message *message, int fd) {
    bool confirm = port->protocol_features & PROTOCOL_F_REPLY_ACK;
    message->flags = VERSION | (confirm ? FLAG_NEED_REPLY : 0);
    int code = send_message(port, message, fd);
    if (code || !confirm)
        return code;
    uint64_t result;
    code = receive_answer(port, message->request, &result, sizeof result);
    if (!code && result)
        return dpu_fail(port, DPU_EREFUSED, "%s: refused", REQUEST_NAMES[message->request]);
    return code;
}

int dpu_send_u64(struct dpu_port *port, int request, uint64_t value) {
    struct message message = {.request = (uint32_t)request, .size = sizeof value, .u64 = value};
    if (request == SET_OWNER)
        message.size = 0;
    return send_and_confirm(port, &message, -1);
}

int dpu_get_u64(struct dpu_port *port, int request, uint64_t *value) {
    struct message message = {.request = (uint32_t)request, .flags = VERSION};
    int code = send_message(port, &message, -1);
    return code ? code : receive_answer(port, (uint32_t)request, value, sizeof *value);
}

int dpu_send_memory(struct dpu_port *port) {
    uint64_t start = (uint64_t)(uintptr_t)port->memory + port->address_offset;
    struct message message = {.request = SET_MEM_TABLE, .size = sizeof message.memory};
    message.memory.count = 1;
    message.memory.region.guest = start;
    message.memory.region.user = start;
    message.memory.region.size = port->memory_bytes;
    return send_and_confirm(port, &message, port->memory_fd);
}

static int send_state(struct dpu_port *port, uint32_t request, uint32_t index, uint32_t value) {
    struct message message = {.request = request, .size = 8, .state = {index, value}};
    return send_and_confirm(port, &message, -1);
}

static int send_fd(struct dpu_port *port, uint32_t request, uint32_t index, int fd) {
    struct message message = {.request = request, .size = 8, .u64 = index};
    return send_and_confirm(port, &message, fd);
}

static uint64_t address(const struct dpu_port *port, const void *pointer) {
    return (uint64_t)(uintptr_t)pointer + port->address_offset;
}

int dpu_send_ring(struct dpu_port *port, const struct ring *ring, uint32_t number) {
    struct message place = {.request = SET_VRING_ADDR, .size = sizeof place.address};
    place.address.index = number;
    place.address.desc = address(port, ring->desc);
    place.address.avail = address(port, ring->avail);
    place.address.used = address(port, ring->used);
    int code = send_state(port, SET_VRING_NUM, number, ring->size);
    if (!code)
        code = send_state(port, SET_VRING_BASE, number, atomic_load_explicit(&ring->used->idx, memory_order_relaxed));
    if (!code)
        code = send_and_confirm(port, &place, -1);
    if (!code)
        code = send_fd(port, SET_VRING_CALL, number, ring->call_fd);
    /* A kick that the last DPU did not see would start the ring before it is enabled: its packets would be discarded
     * (vhost-user, "Ring states"). dpu_attach kicks in the end. */
    uint64_t unseen;
    if (!code && read(ring->kick_fd, &unseen, sizeof unseen) < 0 && errno != EAGAIN)
        code = dpu_fail(port, DPU_ESYSTEM, "kick eventfd: %s", strerror(errno));
    if (!code)
        code = send_fd(port, SET_VRING_KICK, number, ring->kick_fd);
    /* Without protocol features a ring is born enabled (vhost-user, "Ring states"). */
    if (!code && (atomic_load_explicit(&port->features, memory_order_relaxed) & F_PROTOCOL_FEATURES))
        code = send_state(port, SET_VRING_ENABLE, number, 1);
    return code;
}

int dpu_send_stop(struct dpu_port *port, uint32_t number) {
    struct message message = {.request = GET_VRING_BASE, .flags = VERSION, .size = 8, .state = {number, 0}};
    uint64_t state;
    int code = send_message(port, &message, -1);
    return code ? code : receive_answer(port, GET_VRING_BASE, &state, sizeof state);
}
