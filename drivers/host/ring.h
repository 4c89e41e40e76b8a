/* The steps that bursts are made of, inline: buffers of a queue, descriptors of a split virtqueue.
 *
 * Spec: virtio 1.2 2.7. The other side may write what it likes: a used element is read once and bounded.
 */
#ifndef DPU_RING_H
#define DPU_RING_H

#include <string.h>

#include "internal.h"

/* Shared words that are read or written as a whole, whatever their declared type. */
typedef volatile uint16_t shared16 __attribute__((may_alias));
typedef volatile uint64_t shared64 __attribute__((may_alias, aligned(4))); /* 2.7: a used ring is aligned to 4 */

static inline void buf_reset(struct dpu_buf *buf) {
    buf->data = buf->base + BUF_FRONT_BYTES;
    buf->next = NULL;
    buf->len = 0;
    memset(&buf->csum_start, 0, 12); /* up to `segments` */
}

/* Take free buffers, as they were left. */
static inline uint32_t pool_take(struct queue *queue, struct dpu_buf **bufs, uint32_t count) {
    if (unlikely(queue->cache_count < count))
        return dpu_pool_take(queue, bufs, count);
    queue->cache_count -= count;
    memcpy(bufs, queue->cache + queue->cache_count, count * sizeof *bufs);
    return count;
}

static inline void pool_put(struct queue *queue, struct dpu_buf *buf) {
    if (unlikely(queue->cache_count == POOL_CACHE))
        dpu_pool_spill(queue);
    queue->cache[queue->cache_count++] = buf;
}

/* Free all pieces of a packet; returns how many. */
static inline uint32_t pool_put_packet(struct queue *queue, struct dpu_buf *buf) {
    uint32_t pieces = 0;
    while (buf) {
        struct dpu_buf *next = buf->next;
        pool_put(queue, buf);
        pieces++;
        buf = next;
    }
    return pieces;
}

static inline uint16_t *ring_used_event(const struct ring *ring) {
    return &ring->avail->ring[ring->size];
}

static inline uint16_t ring_avail_event(const struct ring *ring) {
    return *(shared16 *)&ring->used->ring[ring->size];
}

static inline uint16_t ring_used_idx(const struct ring *ring) {
    return atomic_load_explicit(&ring->used->idx, memory_order_acquire);
}

/* A used element, read once. */
static inline struct vring_used_elem ring_used_elem(const struct ring *ring, uint16_t position) {
    uint64_t word = *(shared64 *)((uint8_t *)ring->used->ring + 8 * (size_t)(position & ring->mask));
    return (struct vring_used_elem){.id = (uint32_t)word, .len = (uint32_t)(word >> 32)};
}

/* Take a free descriptor; there is one. First in, first out: with a device that works in order, descriptors come
 * round in order, and the available ring need not be written. */
static inline uint16_t ring_take_id(struct ring *ring) {
    uint16_t id = ring->free_ids[ring->free_first++ & ring->mask];
    ring->free_count--;
    return id;
}

static inline void ring_put_id(struct ring *ring, uint32_t id) {
    ring->free_ids[(ring->free_first + ring->free_count) & ring->mask] = (uint16_t)id;
    ring->free_count++;
}

static inline void ring_make_available(struct ring *ring, uint16_t id) {
    uint16_t *entry = &ring->avail->ring[ring->avail_idx & ring->mask];
    if (*entry != id)
        *entry = id;
    ring->avail_idx++;
    ring->heads++;
}

/* Show the other side what was made available; true: it wants to be kicked. */
static inline bool ring_publish(struct ring *ring, uint64_t features) {
    uint16_t from = ring->kick_from, to = ring->avail_idx;
    atomic_store_explicit(&ring->avail->idx, to, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst); /* 2.7.7.2: the index before the look at what it asked for */
    ring->kick_from = to;
    if (features & F_EVENT_IDX)
        return (uint16_t)(to - ring_avail_event(ring) - 1) < (uint16_t)(to - from);
    return !(atomic_load_explicit(&ring->used->flags, memory_order_relaxed) & USED_F_NO_NOTIFY);
}

/* Ask for a call once `ahead` further elements are used. */
static inline void ring_arm(struct ring *ring, uint64_t features, uint16_t ahead) {
    if (features & F_EVENT_IDX)
        *(shared16 *)ring_used_event(ring) = (uint16_t)(ring->last_used + ahead - 1);
    else
        *(shared16 *)&ring->avail->flags = 0;
    atomic_thread_fence(memory_order_seq_cst); /* 2.7.10: asked before the last look */
}

/* Ask for none; with EVENT_IDX there is still one every 65536 elements. */
static inline void ring_disarm(struct ring *ring, uint64_t features) {
    if (features & F_EVENT_IDX)
        *(shared16 *)ring_used_event(ring) = (uint16_t)(ring->last_used - 1);
    else
        *(shared16 *)&ring->avail->flags = AVAIL_F_NO_INTERRUPT;
}

#endif
