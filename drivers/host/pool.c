/* Buffers: the shared memory they lie in, and the stacks of free ones.
 *
 * The memory is sealed against shrinking, so that neither side can be killed by the other's ftruncate() (SIGBUS).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring.h"

#define HUGE_PAGE_BYTES (2u << 20)
/* What the other side is told instead of our addresses; above what a guest could have, page-aligned. */
#define SHARED_BASE 0x100000000ULL

static int map_memory(struct dpu_port *port, uint64_t bytes, unsigned flags, uint32_t page_bytes) {
    port->memory_bytes = (bytes + page_bytes - 1) & ~(uint64_t)(page_bytes - 1);
    port->page_bytes = page_bytes;
    port->memory_fd = memfd_create("libdpu", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (port->memory_fd < 0)
        return errno;
    if (!ftruncate(port->memory_fd, (off_t)port->memory_bytes)) {
        void *memory = mmap(NULL, port->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, port->memory_fd, 0);
        if (memory != MAP_FAILED) {
            port->memory = memory;
            fcntl(port->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
            return 0;
        }
    }
    int error = errno;
    close(port->memory_fd);
    port->memory_fd = -1;
    return error;
}

static int map_preferred(struct dpu_port *port, uint64_t bytes) {
    if (port->options.huge_pages != DPU_HUGE_NEVER) {
        int error = map_memory(port, bytes, MFD_HUGETLB | MFD_HUGE_2MB, HUGE_PAGE_BYTES);
        if (!error)
            return DPU_OK;
        if (port->options.huge_pages == DPU_HUGE_REQUIRE)
            return dpu_fail(port, DPU_ENOMEM, "%llu octets in 2 MB pages: %s", (unsigned long long)bytes,
                            strerror(error));
    }
    int error = map_memory(port, bytes, 0, (uint32_t)sysconf(_SC_PAGESIZE));
    if (error)
        return dpu_fail(port, DPU_ENOMEM, "%llu octets of shared memory: %s", (unsigned long long)bytes,
                        strerror(error));
    return DPU_OK;
}

int dpu_memory_make(struct dpu_port *port, uint64_t ring_bytes) {
    uint32_t count = port->options.buf_count;
    /* An odd number of cache lines, so that the first lines of buffers do not meet in a few sets of the cache. */
    port->stride = (((uint64_t)BUF_FRONT_BYTES + port->options.buf_size + CACHE_LINE - 1) / CACHE_LINE | 1) * CACHE_LINE;
    int code = map_preferred(port, ring_bytes + count * port->stride);
    if (code)
        return code;
    port->address_offset = SHARED_BASE - (uint64_t)(uintptr_t)port->memory;
    port->bufs = aligned_alloc(CACHE_LINE, count * sizeof *port->bufs);
    port->pool = malloc(count * sizeof *port->pool);
    if (!port->bufs || !port->pool)
        return dpu_fail(port, DPU_ENOMEM, "%u buffers: %s", count, strerror(ENOMEM));
    memset(port->bufs, 0, count * sizeof *port->bufs);
    for (uint32_t i = 0; i < count; i++) {
        struct dpu_buf *buf = &port->bufs[i];
        buf->index = i;
        buf->base = port->memory + ring_bytes + i * port->stride;
        buf->data = buf->base + BUF_FRONT_BYTES;
        buf->capacity = port->options.buf_size;
        port->pool[count - 1 - i] = buf;
    }
    port->pool_count = count;
    return DPU_OK;
}

void dpu_memory_free(struct dpu_port *port) {
    if (port->memory)
        munmap(port->memory, port->memory_bytes);
    if (port->memory_fd >= 0)
        close(port->memory_fd);
    free(port->bufs);
    free(port->pool);
}

static void lock_pool(struct dpu_port *port) {
    while (atomic_flag_test_and_set_explicit(&port->pool_lock, memory_order_acquire))
        __builtin_ia32_pause();
}

static void unlock_pool(struct dpu_port *port) {
    atomic_flag_clear_explicit(&port->pool_lock, memory_order_release);
}

/* Take buffers that the queue's own cache has not got. */
uint32_t dpu_pool_take(struct queue *queue, struct dpu_buf **bufs, uint32_t count) {
    struct dpu_port *port = queue->port;
    uint32_t want = count + POOL_BULK / 2;
    if (queue->cache_count < count && queue->cache_count + want <= POOL_CACHE) {
        lock_pool(port);
        uint32_t moved = want < port->pool_count ? want : port->pool_count;
        port->pool_count -= moved;
        memcpy(queue->cache + queue->cache_count, port->pool + port->pool_count, moved * sizeof *bufs);
        unlock_pool(port);
        queue->cache_count += moved;
    }
    if (queue->cache_count < count)
        dpu_tx_reclaim(queue);
    if (count > queue->cache_count)
        count = queue->cache_count;
    queue->cache_count -= count;
    memcpy(bufs, queue->cache + queue->cache_count, count * sizeof *bufs);
    return count;
}

/* Make room in the queue's cache, which is full. */
void dpu_pool_spill(struct queue *queue) {
    struct dpu_port *port = queue->port;
    lock_pool(port);
    queue->cache_count -= POOL_BULK;
    memcpy(port->pool + port->pool_count, queue->cache + queue->cache_count, POOL_BULK * sizeof *port->pool);
    port->pool_count += POOL_BULK;
    unlock_pool(port);
}

int dpu_buf_alloc(struct dpu_port *port, int number, struct dpu_buf **bufs, int count) {
    if (number < 0 || (uint32_t)number >= port->options.queues || count < 0)
        return DPU_EINVAL;
    struct queue *queue = &port->queues[number];
    int got = 0;
    while (got < count) {
        uint32_t want = count - got < POOL_BULK / 2 ? (uint32_t)(count - got) : POOL_BULK / 2;
        uint32_t taken = pool_take(queue, bufs + got, want);
        for (uint32_t i = 0; i < taken; i++)
            buf_reset(bufs[got + (int)i]);
        got += (int)taken;
        if (taken < want)
            break;
    }
    queue->app += got;
    return got;
}

void dpu_buf_free(struct dpu_port *port, int number, struct dpu_buf **bufs, int count) {
    if (number < 0 || (uint32_t)number >= port->options.queues)
        return;
    struct queue *queue = &port->queues[number];
    for (int i = 0; i < count; i++)
        queue->app -= pool_put_packet(queue, bufs[i]);
}
