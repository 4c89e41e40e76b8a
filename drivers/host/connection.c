/* The connection to the DPU: connect or listen, negotiate, start the rings.
 *
 * Spec: vhost-user, "Communication", "Starting and stopping rings", "Multiple queue support".
 * `port->lock` is held in all of these.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "requests.h"

static int fill_address(struct dpu_port *port, struct sockaddr_un *address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(port->path) >= sizeof address->sun_path)
        return dpu_fail(port, DPU_EINVAL, "%s: longer than a Unix socket's %zu octets", port->path,
                        sizeof address->sun_path - 1);
    strcpy(address->sun_path, port->path);
    return DPU_OK;
}

static int listen_once(struct dpu_port *port, const struct sockaddr_un *address) {
    if (port->listen_fd >= 0)
        return DPU_OK;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return dpu_fail(port, DPU_ESYSTEM, "socket: %s", strerror(errno));
    unlink(port->path);
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) || listen(fd, 1)) {
        dpu_fail(port, DPU_ESYSTEM, "listen on %s: %s", port->path, strerror(errno));
        close(fd);
        return DPU_ESYSTEM;
    }
    port->listen_fd = fd;
    return DPU_OK;
}

/* A connected socket, or a negative code; never waits. */
static int connected_socket(struct dpu_port *port) {
    struct sockaddr_un address;
    int code = fill_address(port, &address);
    if (code)
        return code;
    if (port->options.server) {
        code = listen_once(port, &address);
        if (code)
            return code;
        int fd = accept4(port->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        return fd >= 0 ? fd : dpu_fail(port, DPU_ECONNECT, "%s: no DPU has connected", port->path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return dpu_fail(port, DPU_ESYSTEM, "socket: %s", strerror(errno));
    /* A full backlog makes connect() wait; the timeout of sending bounds that. */
    struct timeval most = {port->options.timeout_ms / 1000, port->options.timeout_ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
    if (!connect(fd, (const struct sockaddr *)&address, sizeof address))
        return fd;
    dpu_fail(port, DPU_ECONNECT, "connect to %s: %s", port->path, strerror(errno));
    close(fd);
    return DPU_ECONNECT;
}

static uint64_t wanted_features(const struct dpu_port *port, uint64_t offered) {
    uint32_t offloads = port->options.offloads;
    uint64_t wanted = F_VERSION_1 | F_MRG_RXBUF | F_EVENT_IDX | F_PROTOCOL_FEATURES;
    if (port->options.queues > 1)
        wanted |= F_MQ;
    if (offloads & DPU_OFFLOAD_TX_CSUM) /* 5.1.3.1: TSO and USO need it */
        wanted |= F_CSUM | (offloads & DPU_OFFLOAD_TX_TSO ? F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN : 0) |
                  (offloads & DPU_OFFLOAD_TX_USO ? F_HOST_USO : 0);
    /* 5.1.6.3.1: without merged buffers, one must hold the largest packet. */
    bool large = (offered & F_MRG_RXBUF) || port->options.buf_size >= DPU_FRAME_MAX;
    if (offloads & DPU_OFFLOAD_RX_CSUM)
        wanted |= F_GUEST_CSUM |
                  (large && offloads & DPU_OFFLOAD_RX_TSO ? F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN : 0) |
                  (large && offloads & DPU_OFFLOAD_RX_USO ? F_GUEST_USO4 | F_GUEST_USO6 : 0);
    uint64_t got = offered & wanted;
    if (!(got & F_CSUM))
        got &= ~(F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_USO);
    if (!(got & F_GUEST_CSUM))
        got &= ~(F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_USO4 | F_GUEST_USO6);
    if (!(got & (F_GUEST_TSO4 | F_GUEST_TSO6)))
        got &= ~F_GUEST_ECN;
    if (!(got & (F_HOST_TSO4 | F_HOST_TSO6)))
        got &= ~F_HOST_ECN;
    return got;
}

static int negotiate_protocol(struct dpu_port *port, uint64_t features) {
    port->protocol_features = 0;
    if (features & F_PROTOCOL_FEATURES) {
        uint64_t offered;
        int code = dpu_get_u64(port, GET_PROTOCOL_FEATURES, &offered);
        if (code)
            return code;
        offered &= PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK;
        code = dpu_send_u64(port, SET_PROTOCOL_FEATURES, offered);
        if (code)
            return code;
        port->protocol_features = offered;
    }
    uint64_t queues = 1;
    if (port->protocol_features & PROTOCOL_F_MQ) {
        int code = dpu_get_u64(port, GET_QUEUE_NUM, &queues);
        if (code)
            return code;
    }
    if (port->options.queues > 1 && (queues < port->options.queues || !(features & F_MQ)))
        return dpu_fail(port, DPU_EFEATURE, "%u queues are asked for, the DPU's port has %u", port->options.queues,
                        features & F_MQ ? (unsigned)queues : 1);
    return DPU_OK;
}

static int negotiate(struct dpu_port *port) {
    uint64_t offered;
    port->protocol_features = 0;
    int code = dpu_send_u64(port, SET_OWNER, 0);
    if (!code)
        code = dpu_get_u64(port, GET_FEATURES, &offered);
    if (code)
        return code;
    if (!(offered & F_VERSION_1))
        return dpu_fail(port, DPU_EFEATURE, "the DPU does not offer VIRTIO_F_VERSION_1");
    uint64_t features = wanted_features(port, offered);
    code = negotiate_protocol(port, features);
    if (!code)
        code = dpu_send_u64(port, SET_FEATURES, features);
    if (!code)
        code = dpu_send_memory(port);
    if (!code)
        atomic_store_explicit(&port->features, features, memory_order_relaxed);
    return code;
}

int dpu_connect(struct dpu_port *port) {
    int fd = connected_socket(port);
    if (fd < 0)
        return fd;
    struct timeval most = {port->options.timeout_ms / 1000, port->options.timeout_ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
    if (!port->socket_made) {
        port->socket_fd = fd;
        port->socket_made = true;
    } else {
        dup3(fd, port->socket_fd, O_CLOEXEC);
        close(fd);
    }
    int code = negotiate(port);
    if (code)
        shutdown(port->socket_fd, SHUT_RDWR);
    else
        atomic_fetch_add_explicit(&port->generation, 1, memory_order_release);
    return code;
}

int dpu_attach(struct queue *queue) {
    struct dpu_port *port = queue->port;
    queue->features = atomic_load_explicit(&port->features, memory_order_relaxed);
    dpu_ring_rebuild_rx(queue);
    dpu_ring_rebuild_tx(queue);
    uint32_t number = 2 * (uint32_t)queue->number;
    int code = dpu_send_ring(port, &queue->rx, number);
    if (!code)
        code = dpu_send_ring(port, &queue->tx, number + 1);
    if (code) {
        dpu_link_down(port);
        return code;
    }
    queue->generation = atomic_load_explicit(&port->generation, memory_order_relaxed);
    queue->idle = 0;
    /* A ring starts on its first kick. */
    uint64_t one = 1;
    bool kicked = write(queue->rx.kick_fd, &one, sizeof one) > 0;
    kicked = write(queue->tx.kick_fd, &one, sizeof one) > 0 && kicked;
    return kicked ? DPU_OK : dpu_fail(port, DPU_ESYSTEM, "kick: %s", strerror(errno));
}

bool dpu_socket_ended(struct dpu_port *port) {
    struct pollfd look = {.fd = port->socket_fd, .events = POLLRDHUP};
    return poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

/* Not closed: another thread may be in poll() on it, which this wakes. */
void dpu_socket_shut(struct dpu_port *port) {
    shutdown(port->socket_fd, SHUT_RDWR);
}

void dpu_link_down(struct dpu_port *port) {
    dpu_socket_shut(port);
    if (atomic_load_explicit(&port->generation, memory_order_relaxed) & 1) {
        atomic_fetch_add_explicit(&port->generation, 1, memory_order_release);
        atomic_fetch_add_explicit(&port->link_losses, 1, memory_order_relaxed);
        port->pause_ms = 0;
        port->next_attempt_us = 0;
    }
}
