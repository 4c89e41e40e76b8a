/* Sleep until a queue has something to do. Spec: virtio 1.2 2.7.7 (used buffer notifications).
 *
 * A queue that is polled asks for no calls. Here it asks, looks once more, and only then sleeps: what is used between
 * the look and the sleep makes the eventfd readable.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#define DOWN_PAUSE_US 10000 /* between two looks at a link that is down */

static bool rx_ready(struct queue *queue) {
    return queue->pending_count || ring_used_idx(&queue->rx) != queue->rx.last_used;
}

static uint32_t tx_missing(struct queue *queue) {
    uint32_t half = queue->tx.size / 2;
    return queue->tx.free_count < half ? half - queue->tx.free_count : 0;
}

static bool tx_ready(struct queue *queue) {
    dpu_tx_reclaim(queue); /* nonsense on the ring is met again, and told, by the next burst */
    return !tx_missing(queue) || (uint16_t)(ring_used_idx(&queue->tx) - queue->tx.last_used) > queue->tx.heads;
}

/* poll() in microseconds; how long is bounded by `left_us`, unless that is negative. */
static void sleep_on(struct pollfd *fds, nfds_t count, int64_t left_us) {
    struct timespec most = {left_us / 1000000, left_us % 1000000 * 1000};
    if (ppoll(fds, count, left_us < 0 ? NULL : &most, NULL) < 0)
        for (nfds_t i = 0; i < count; i++) /* EINTR: the caller looks again */
            fds[i].revents = 0;
}

/* Sleep until `ring` was used `ahead` further times, or the link goes down. */
static int sleep_on_ring(struct queue *queue, struct ring *ring, bool (*ready)(struct queue *), uint16_t ahead,
                         int64_t left_us) {
    struct pollfd fds[2] = {{.fd = ring->call_fd, .events = POLLIN},
                            {.fd = queue->port->socket_fd, .events = POLLRDHUP}};
    ring_arm(ring, queue->features, ahead);
    if (!ready(queue))
        sleep_on(fds, 2, left_us);
    ring_disarm(ring, queue->features);
    uint64_t calls;
    if (fds[0].revents & POLLIN && read(ring->call_fd, &calls, sizeof calls) > 0)
        queue->stats.wakeups++;
    if (fds[1].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
        return dpu_link_lost(queue->port, queue->generation, DPU_ELINK, "the DPU closed the connection");
    return DPU_OK;
}

static int wait_for(struct dpu_port *port, int number, bool receive, int64_t timeout_us) {
    if (number < 0 || (uint32_t)number >= port->options.queues)
        return DPU_EINVAL;
    struct queue *queue = &port->queues[number];
    struct ring *ring = receive ? &queue->rx : &queue->tx;
    bool (*ready)(struct queue *) = receive ? rx_ready : tx_ready;
    int64_t end = timeout_us < 0 ? INT64_MAX : dpu_now_us() + timeout_us;
    for (;;) {
        int code = DPU_OK;
        if (queue->generation != atomic_load_explicit(&port->generation, memory_order_acquire))
            code = dpu_recover(queue);
        if (ready(queue) && (receive || !code))
            return 1;
        int64_t left = timeout_us < 0 ? -1 : end - dpu_now_us();
        if (code == DPU_ECLOSED || (timeout_us >= 0 && left <= 0))
            return code;
        if (code) {
            sleep_on(NULL, 0, left < 0 || left > DOWN_PAUSE_US ? DOWN_PAUSE_US : left);
            continue;
        }
        if (receive && queue->rx.free_count)
            dpu_rx_refill(queue);
        uint32_t ahead = receive ? 1 : tx_missing(queue);
        if (ahead > ring->heads)
            ahead = ring->heads;
        code = sleep_on_ring(queue, ring, ready, (uint16_t)(ahead ? ahead : 1), left);
        if (code)
            return code;
    }
}

int dpu_wait(struct dpu_port *port, int queue, int64_t timeout_us) {
    return wait_for(port, queue, true, timeout_us);
}

int dpu_wait_tx(struct dpu_port *port, int queue, int64_t timeout_us) {
    return wait_for(port, queue, false, timeout_us);
}
