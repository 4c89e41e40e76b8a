/* A split virtqueue: lay out, rebuild for a new connection.
 *
 * Spec: virtio 1.2 2.7 (layout, alignment).
 * A restarted DPU knows nothing of what its predecessor took and did not give back, so all of that is made available
 * again, in order, from the used index on: nothing leaks, and a packet may be sent twice.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ring.h"

static uint64_t align(uint64_t bytes) {
    return (bytes + CACHE_LINE - 1) & ~(uint64_t)(CACHE_LINE - 1);
}

static uint64_t avail_offset(uint32_t size) {
    return align(sizeof(struct vring_desc) * size);
}

static uint64_t used_offset(uint32_t size) {
    return avail_offset(size) + align(sizeof(struct vring_avail) + sizeof(uint16_t) * (size + 1));
}

uint64_t dpu_ring_bytes(uint32_t size) {
    return used_offset(size) + align(sizeof(struct vring_used) + sizeof(struct vring_used_elem) * size + sizeof(uint16_t));
}

int dpu_ring_make(struct ring *ring, uint8_t *memory, uint32_t size) {
    ring->size = size;
    ring->mask = size - 1;
    ring->desc = (void *)memory;
    ring->avail = (void *)(memory + avail_offset(size));
    ring->used = (void *)(memory + used_offset(size));
    ring->slots = calloc(size, sizeof *ring->slots);
    ring->free_ids = calloc(size, sizeof *ring->free_ids);
    ring->chain = calloc(size, sizeof *ring->chain);
    if (!ring->slots || !ring->free_ids || !ring->chain)
        return ENOMEM;
    ring->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ring->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return ring->kick_fd < 0 || ring->call_fd < 0 ? errno : 0;
}

void dpu_ring_free(struct ring *ring) {
    if (ring->kick_fd >= 0)
        close(ring->kick_fd);
    if (ring->call_fd >= 0)
        close(ring->call_fd);
    free(ring->slots);
    free(ring->free_ids);
    free(ring->chain);
}

/* Take everything off the ring, in the order it was made available; returns how many heads. */
static uint32_t take_outstanding(struct ring *ring, struct dpu_buf **heads) {
    uint32_t count = 0;
    for (uint32_t back = 1; back <= ring->size; back++) { /* from the newest on: an older entry is of a former round */
        uint16_t id = ring->avail->ring[(uint16_t)(ring->avail_idx - back) & ring->mask];
        if (id < ring->size && ring->slots[id].buf) {
            heads[count++] = ring->slots[id].buf;
            ring->slots[id].buf = NULL;
        }
    }
    for (uint32_t i = 0; i < count / 2; i++) {
        struct dpu_buf *head = heads[i];
        heads[i] = heads[count - 1 - i];
        heads[count - 1 - i] = head;
    }
    for (uint32_t id = 0; id < ring->size; id++) { /* entries that were overwritten in shared memory */
        if (ring->slots[id].buf)
            heads[count++] = ring->slots[id].buf;
    }
    return count;
}

/* Empty the ring; its indices go on from where both sides stand. */
static void restart(struct ring *ring, uint64_t features) {
    memset(ring->desc, 0, sizeof *ring->desc * ring->size);
    memset(ring->slots, 0, sizeof *ring->slots * ring->size);
    ring->last_used = ring_used_idx(ring);
    ring->avail_idx = ring->kick_from = ring->last_used;
    atomic_store_explicit(&ring->avail->idx, ring->avail_idx, memory_order_relaxed);
    atomic_store_explicit(&ring->used->flags, 0, memory_order_relaxed);
    ring->avail->flags = 0;
    ring_disarm(ring, features);
    for (uint32_t i = 0; i < ring->size; i++)
        ring->free_ids[i] = (uint16_t)((ring->avail_idx + i) & ring->mask);
    ring->free_first = 0;
    ring->free_count = ring->size;
    ring->heads = ring->bufs = 0;
    uint64_t stale;
    while (read(ring->call_fd, &stale, sizeof stale) > 0) {
    }
}

void dpu_ring_rebuild_rx(struct queue *queue) {
    struct ring *ring = &queue->rx;
    /* What has arrived is kept for the next bursts. */
    memmove(queue->pending, queue->pending + queue->pending_first, queue->pending_count * sizeof *queue->pending);
    queue->pending_first = 0;
    int64_t app = queue->app;
    int got = 1;
    while (got > 0 && queue->pending_count <= ring->size) {
        got = dpu_rx_reap(queue, queue->pending + queue->pending_count, PENDING_BULK);
        queue->pending_count += got > 0 ? (uint32_t)got : 0;
    }
    queue->pending_bufs += queue->app - app;
    queue->app = app;
    struct dpu_buf **heads = queue->heads;
    uint32_t count = take_outstanding(ring, heads);
    restart(ring, queue->features);
    for (uint32_t i = 0; i < count; i++)
        pool_put(queue, heads[i]);
    dpu_rx_refill(queue);
}

void dpu_ring_rebuild_tx(struct queue *queue) {
    struct ring *ring = &queue->tx;
    dpu_tx_reclaim(queue);
    struct dpu_buf **heads = queue->heads;
    uint32_t count = take_outstanding(ring, heads);
    restart(ring, queue->features);
    for (uint32_t i = 0; i < count; i++)
        queue->stats.tx_resent += dpu_tx_post(queue, heads[i]);
    ring_publish(ring, queue->features);
}
