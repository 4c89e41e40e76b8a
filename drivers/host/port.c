/* A port: open, recover, account, close. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#define FIRST_PAUSE_MS 10 /* between the first two attempts to reconnect; doubles */

int64_t dpu_now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void dpu_options_init(struct dpu_options *options) {
    *options = (struct dpu_options){
        .size = sizeof *options,
        .offloads = DPU_OFFLOAD_ALL,
        .queues = 1,
        .ring_size = 512,
        .buf_size = 2048,
        .timeout_ms = 2000,
        .reconnect_ms = 1000,
    };
}

static int check_range(const char *name, uint64_t value, uint64_t least, uint64_t most) {
    if (value >= least && value <= most)
        return DPU_OK;
    return dpu_fail(NULL, DPU_EINVAL, "%s = %llu: must be %llu to %llu", name, (unsigned long long)value,
                    (unsigned long long)least, (unsigned long long)most);
}

static int check_options(struct dpu_options *o) {
    uint32_t rings = 2 * o->ring_size * o->queues;
    int code = check_range("size", o->size, sizeof *o, sizeof *o);
    code = code ? code : check_range("offloads", o->offloads, 0, DPU_OFFLOAD_ALL);
    code = code ? code : check_range("queues", o->queues, 1, QUEUES_MAX);
    code = code ? code : check_range("ring_size", o->ring_size, RING_SIZE_MIN, RING_SIZE_MAX);
    code = code ? code : check_range("buf_size", o->buf_size, 256, 65600);
    code = code ? code : check_range("timeout_ms", o->timeout_ms, 1, 3600000);
    code = code ? code : check_range("reconnect_ms", o->reconnect_ms, 1, 3600000);
    code = code ? code : check_range("huge_pages", o->huge_pages, 0, DPU_HUGE_REQUIRE);
    code = code ? code : check_range("server", o->server, 0, 1);
    if (code)
        return code;
    if (o->ring_size & (o->ring_size - 1))
        return dpu_fail(NULL, DPU_EINVAL, "ring_size = %u: must be a power of two", o->ring_size);
    if (!o->buf_count)
        o->buf_count = 2 * rings + o->queues * POOL_CACHE;
    return check_range("buf_count", o->buf_count, rings / 2 + o->queues * RX_REFILL, 1u << 24);
}

static int make_queue(struct dpu_port *port, int number, uint8_t *memory) {
    struct queue *queue = &port->queues[number];
    uint32_t size = port->options.ring_size;
    queue->port = port;
    queue->number = number;
    queue->cache = calloc(POOL_CACHE, sizeof *queue->cache);
    queue->pending = calloc(size + PENDING_BULK, sizeof *queue->pending);
    queue->heads = calloc(size, sizeof *queue->heads);
    int error = queue->cache && queue->pending && queue->heads ? 0 : ENOMEM;
    error = error ? error : dpu_ring_make(&queue->rx, memory, size);
    error = error ? error : dpu_ring_make(&queue->tx, memory + dpu_ring_bytes(size), size);
    if (!error)
        return DPU_OK;
    return dpu_fail(port, error == ENOMEM ? DPU_ENOMEM : DPU_ESYSTEM, "queue %d: %s", number, strerror(error));
}

static int make_port(struct dpu_port *port) {
    uint64_t ring_bytes = dpu_ring_bytes(port->options.ring_size);
    port->queues = aligned_alloc(CACHE_LINE, port->options.queues * sizeof *port->queues);
    if (!port->queues || !port->path)
        return dpu_fail(port, DPU_ENOMEM, "%s", strerror(ENOMEM));
    memset(port->queues, 0, port->options.queues * sizeof *port->queues);
    for (uint32_t i = 0; i < port->options.queues; i++) {
        struct queue *queue = &port->queues[i];
        queue->rx.kick_fd = queue->rx.call_fd = queue->tx.kick_fd = queue->tx.call_fd = -1;
    }
    int code = dpu_memory_make(port, 2 * ring_bytes * port->options.queues);
    for (uint32_t i = 0; !code && i < port->options.queues; i++)
        code = make_queue(port, (int)i, port->memory + 2 * ring_bytes * i);
    return code;
}

/* Connect and start every queue, trying for `connect_ms`. */
static int open_link(struct dpu_port *port) {
    int64_t end = dpu_now_us() + (int64_t)port->options.connect_ms * 1000;
    for (;;) {
        int code = dpu_connect(port);
        for (uint32_t i = 0; !code && i < port->options.queues; i++)
            code = dpu_attach(&port->queues[i]);
        if (code != DPU_ECONNECT && code != DPU_ELINK && code != DPU_ETIMEOUT)
            return code;
        if (dpu_now_us() >= end)
            return code;
        poll(NULL, 0, FIRST_PAUSE_MS);
    }
}

int dpu_open(const char *path, const struct dpu_options *options, struct dpu_port **result) {
    struct dpu_options chosen;
    dpu_options_init(&chosen);
    if (options)
        chosen = *options;
    *result = NULL;
    int code = path ? check_options(&chosen) : dpu_fail(NULL, DPU_EINVAL, "no path is given");
    if (code)
        return code;
    struct dpu_port *port = calloc(1, sizeof *port);
    if (!port)
        return dpu_fail(NULL, DPU_ENOMEM, "%s", strerror(ENOMEM));
    port->options = chosen;
    port->path = strdup(path);
    port->memory_fd = port->listen_fd = -1;
    atomic_flag_clear(&port->pool_lock);
    pthread_mutex_init(&port->lock, NULL);
    pthread_mutex_init(&port->text_lock, NULL);
    code = make_port(port);
    if (!code)
        code = open_link(port);
    if (code) {
        dpu_fail(NULL, code, "%s", port->text);
        dpu_close(port);
        return code;
    }
    *result = port;
    return DPU_OK;
}

void dpu_shutdown(struct dpu_port *port) {
    atomic_store_explicit(&port->closed, true, memory_order_release);
    pthread_mutex_lock(&port->lock);
    if (port->socket_made && atomic_load_explicit(&port->generation, memory_order_relaxed) & 1) {
        for (uint32_t ring = 0; ring < 2 * port->options.queues; ring++)
            if (dpu_send_stop(port, ring))
                break;
        atomic_fetch_add_explicit(&port->generation, 1, memory_order_release);
        dpu_fail(port, DPU_ECLOSED, "the port was shut down");
        dpu_socket_shut(port);
    }
    if (port->listen_fd >= 0) {
        close(port->listen_fd);
        unlink(port->path);
        port->listen_fd = -1;
    }
    pthread_mutex_unlock(&port->lock);
}

void dpu_close(struct dpu_port *port) {
    if (!port)
        return;
    dpu_shutdown(port);
    if (port->socket_made)
        close(port->socket_fd);
    for (uint32_t i = 0; port->queues && i < port->options.queues; i++) {
        struct queue *queue = &port->queues[i];
        dpu_ring_free(&queue->rx);
        dpu_ring_free(&queue->tx);
        free(queue->cache);
        free(queue->pending);
        free(queue->heads);
    }
    dpu_memory_free(port);
    pthread_mutex_destroy(&port->lock);
    pthread_mutex_destroy(&port->text_lock);
    free(port->queues);
    free(port->path);
    free(port);
}

/* Note that the connection of this generation ended; the next calls reconnect. Returns `code`. */
int dpu_link_lost(struct dpu_port *port, uint32_t generation, int code, const char *why) {
    pthread_mutex_lock(&port->lock);
    if (atomic_load_explicit(&port->generation, memory_order_relaxed) == generation) {
        dpu_fail(port, code, "%s", why);
        dpu_link_down(port);
    }
    pthread_mutex_unlock(&port->lock);
    return atomic_load_explicit(&port->closed, memory_order_acquire) ? DPU_ECLOSED : code;
}

static int reconnect(struct dpu_port *port) {
    int64_t now = dpu_now_us();
    if (now < port->next_attempt_us)
        return DPU_ELINK;
    port->pause_ms = port->pause_ms ? 2 * port->pause_ms : FIRST_PAUSE_MS;
    if (port->pause_ms > port->options.reconnect_ms)
        port->pause_ms = port->options.reconnect_ms;
    int code = dpu_connect(port);
    port->next_attempt_us = dpu_now_us() + (int64_t)port->pause_ms * 1000;
    if (!code)
        atomic_fetch_add_explicit(&port->reconnects, 1, memory_order_relaxed);
    return code;
}

/* The rings of this queue are not on the port's connection: make one if it is time, and put them on it. */
int dpu_recover(struct queue *queue) {
    struct dpu_port *port = queue->port;
    if (atomic_load_explicit(&port->closed, memory_order_acquire))
        return DPU_ECLOSED;
    if (pthread_mutex_trylock(&port->lock)) /* another thread is at it */
        return DPU_ELINK;
    int code = DPU_OK;
    if (!(atomic_load_explicit(&port->generation, memory_order_relaxed) & 1))
        code = reconnect(port);
    if (!code)
        code = dpu_attach(queue);
    pthread_mutex_unlock(&port->lock);
    return code ? DPU_ELINK : DPU_OK;
}
