/* What a port tells about itself. */
#include "ring.h"

int dpu_link_state(struct dpu_port *port) {
    uint32_t generation = atomic_load_explicit(&port->generation, memory_order_acquire);
    if (!(generation & 1))
        return 0;
    if (dpu_socket_ended(port)) {
        dpu_link_lost(port, generation, DPU_ELINK, "the DPU closed the connection");
        return 0;
    }
    return 1;
}

uint64_t dpu_features(struct dpu_port *port) {
    return atomic_load_explicit(&port->features, memory_order_relaxed);
}

void dpu_get_info(struct dpu_port *port, struct dpu_info *info) {
    *info = (struct dpu_info){
        .memory = port->memory,
        .memory_bytes = port->memory_bytes,
        .bufs = port->bufs,
        .buf_count = port->options.buf_count,
        .buf_size = port->options.buf_size,
        .queues = port->options.queues,
        .ring_size = port->options.ring_size,
        .page_bytes = port->page_bytes,
        .protocol_features = port->protocol_features,
    };
}

static void add_queue(struct dpu_stats *sum, const struct dpu_stats *one) {
    sum->rx_packets += one->rx_packets;
    sum->rx_bytes += one->rx_bytes;
    sum->rx_errors += one->rx_errors;
    sum->tx_packets += one->tx_packets;
    sum->tx_bytes += one->tx_bytes;
    sum->tx_errors += one->tx_errors;
    sum->tx_full += one->tx_full;
    sum->tx_checksums += one->tx_checksums;
    sum->tx_resent += one->tx_resent;
    sum->kicks += one->kicks;
    sum->wakeups += one->wakeups;
}

int dpu_get_stats(struct dpu_port *port, int number, struct dpu_stats *stats) {
    if (number != DPU_ALL_QUEUES && (number < 0 || (uint32_t)number >= port->options.queues))
        return DPU_EINVAL;
    *stats = (struct dpu_stats){
        .reconnects = atomic_load_explicit(&port->reconnects, memory_order_relaxed),
        .link_losses = atomic_load_explicit(&port->link_losses, memory_order_relaxed),
        .bufs_total = port->options.buf_count,
        .bufs_pool = port->pool_count,
    };
    int64_t app = 0; /* of one queue it may be negative: packets are freed by another than they came from */
    for (uint32_t i = 0; i < port->options.queues; i++) {
        const struct queue *queue = &port->queues[i];
        if (number == DPU_ALL_QUEUES || number == (int)i)
            add_queue(stats, &queue->stats);
        stats->bufs_pool += queue->cache_count;
        stats->bufs_rings += queue->rx.bufs + queue->tx.bufs + (uint64_t)queue->pending_bufs;
        app += queue->app;
    }
    stats->bufs_app = (uint64_t)app;
    return DPU_OK;
}
