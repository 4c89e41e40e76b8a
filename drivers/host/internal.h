/* What the files of libdpu share; nothing of it is exported.
 *
 * port.c        the calls of dpu.h that are about the port; recovery of a lost link
 * burst.c       receive and transmit
 * wait.c        sleep until there is something to do
 * connection.c  connect or listen, negotiate, start the rings
 * vhost_user.c  one message of the protocol, and its answer
 * ring.c        a split virtqueue: lay out, rebuild after a reconnection
 * ring.h        the steps of a split virtqueue that bursts are made of, inline
 * pool.c        buffers: shared memory, stacks of free ones
 * query.c       what a port tells about itself
 * packet.c      what can be done with one packet
 * error.c       codes and texts
 */
#ifndef DPU_INTERNAL_H
#define DPU_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "dpu.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define CACHE_LINE 64
#define HIDDEN __attribute__((visibility("hidden")))

/* Feature bits: virtio 1.2 5.1.3 and 6, vhost-user "Protocol features" */
#define BIT(n) (1ULL << (n))
#define F_CSUM BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_GUEST_TSO4 BIT(7)
#define F_GUEST_TSO6 BIT(8)
#define F_GUEST_ECN BIT(9)
#define F_HOST_TSO4 BIT(11)
#define F_HOST_TSO6 BIT(12)
#define F_HOST_ECN BIT(13)
#define F_MRG_RXBUF BIT(15)
#define F_MQ BIT(22)
#define F_EVENT_IDX BIT(29)
#define F_PROTOCOL_FEATURES BIT(30)
#define F_VERSION_1 BIT(32)
#define F_GUEST_USO4 BIT(54)
#define F_GUEST_USO6 BIT(55)
#define F_HOST_USO BIT(56)
#define PROTOCOL_F_MQ BIT(0)
#define PROTOCOL_F_REPLY_ACK BIT(3)

/* virtio 1.2 5.1.6; little-endian, as this machine is */
struct vnet_hdr {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
#define VNET_HDR_BYTES 12
#define BUF_FRONT_BYTES (DPU_HEADROOM + VNET_HDR_BYTES) /* the header lies at the start of a cache line */

/* virtio 1.2 2.7.5, 2.7.6, 2.7.8 */
struct vring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
#define DESC_F_NEXT 1
#define DESC_F_WRITE 2
struct vring_avail {
    uint16_t flags;
    _Atomic uint16_t idx;
    uint16_t ring[]; /* and used_event */
};
#define AVAIL_F_NO_INTERRUPT 1
struct vring_used_elem {
    uint32_t id, len;
};
struct vring_used {
    _Atomic uint16_t flags;
    _Atomic uint16_t idx;
    struct vring_used_elem ring[]; /* and avail_event */
};
#define USED_F_NO_NOTIFY 1

#define RING_SIZE_MIN 64
#define RING_SIZE_MAX 32768
#define QUEUES_MAX 128
#define POOL_CACHE 512   /* free buffers a queue keeps to itself at most */
#define POOL_BULK 256    /* moved between a queue and the port's stack at a time */
#define PENDING_BULK 64
#define RX_REFILL 32     /* descriptors that are filled together */
#define LINK_CHECK_EVERY 256 /* bursts without a packet between two looks at the socket */

struct slot {
    struct dpu_buf *buf; /* what the descriptor carries; NULL: it is free */
    uint8_t *header;     /* its virtio-net header */
};

struct ring {
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    struct slot *slots;   /* struct slot[size], by descriptor */
    uint16_t *free_ids;   /* uint16_t[size], free descriptors, first in first out */
    uint16_t *chain;      /* uint16_t[size], descriptor that follows; only where slots say there is one */
    uint32_t size, mask;
    uint16_t avail_idx;   /* what the other side was told, once published */
    uint16_t last_used;   /* next used element to look at */
    uint16_t kick_from;   /* avail_idx at the last decision to kick */
    uint32_t free_first;  /* running position in free_ids */
    uint32_t free_count;
    uint32_t heads;       /* packets or empty buffers on the ring */
    uint32_t bufs;        /* buffers on the ring */
    int kick_fd, call_fd;
};

struct queue {
    struct ring rx, tx;
    struct dpu_port *port;
    uint32_t generation;  /* of the connection its rings run on; another than the port's: they do not */
    uint64_t features;
    uint32_t idle;        /* bursts without a packet */
    int number;
    struct dpu_buf **cache; /* struct dpu_buf *[POOL_CACHE], free buffers */
    uint32_t cache_count;
    int64_t app;          /* buffers handed to the program less those taken back */
    struct dpu_buf **pending; /* struct dpu_buf *[size + PENDING_BULK], received before a reconnection, not taken yet */
    uint32_t pending_first, pending_count;
    int64_t pending_bufs;
    struct dpu_buf **heads;   /* struct dpu_buf *[size], scratch of a rebuild */
    struct dpu_stats stats;
} __attribute__((aligned(CACHE_LINE)));

struct dpu_port {
    _Atomic uint32_t generation; /* moves on when the link goes down and when it comes up; odd: up */
    _Atomic bool closed;
    uint8_t *memory;
    uint64_t memory_bytes;
    uint64_t address_offset;     /* added to a pointer makes the address that the other side is told */
    struct dpu_buf *bufs;
    uint64_t stride;             /* octets between two buffers */
    struct queue *queues;
    struct dpu_options options;
    char *path;
    /* the stack of free buffers; `pool_lock` is held for a copy of POOL_BULK pointers */
    atomic_flag pool_lock;
    struct dpu_buf **pool;
    uint32_t pool_count;
    /* the connection; `lock` is held by who changes it or sends a message */
    pthread_mutex_t lock;
    int memory_fd, listen_fd;
    int socket_fd;               /* one number for the port's life, so that another thread's poll() never meets a stranger */
    bool socket_made;
    uint32_t page_bytes;
    _Atomic uint64_t features;
    uint64_t protocol_features;
    int64_t next_attempt_us;
    uint32_t pause_ms;
    _Atomic uint64_t reconnects, link_losses;
    pthread_mutex_t text_lock;
    char text[200];
};

/* error.c */
HIDDEN int dpu_fail(struct dpu_port *port, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* pool.c */
HIDDEN int dpu_memory_make(struct dpu_port *port, uint64_t ring_bytes);
HIDDEN void dpu_memory_free(struct dpu_port *port);
HIDDEN uint32_t dpu_pool_take(struct queue *queue, struct dpu_buf **bufs, uint32_t count);
HIDDEN void dpu_pool_spill(struct queue *queue);

/* ring.c */
HIDDEN uint64_t dpu_ring_bytes(uint32_t size);
HIDDEN int dpu_ring_make(struct ring *ring, uint8_t *memory, uint32_t size);
HIDDEN void dpu_ring_free(struct ring *ring);
HIDDEN void dpu_ring_rebuild_rx(struct queue *queue);
HIDDEN void dpu_ring_rebuild_tx(struct queue *queue);

/* burst.c */
HIDDEN void dpu_rx_refill(struct queue *queue);
HIDDEN int dpu_rx_reap(struct queue *queue, struct dpu_buf **bufs, int count);
HIDDEN int dpu_tx_reclaim(struct queue *queue);
HIDDEN bool dpu_tx_post(struct queue *queue, struct dpu_buf *buf);
HIDDEN int dpu_rx_pending(struct queue *queue, struct dpu_buf **bufs, int count);

/* packet.c */
HIDDEN bool dpu_tx_prepare(struct queue *queue, struct dpu_buf *buf, uint32_t length);
HIDDEN bool dpu_rx_offload(struct dpu_buf *buf, const struct vnet_hdr *header, uint32_t length);

/* vhost_user.c: each sends one message and takes its answer; `port->lock` is held */
HIDDEN int dpu_send_u64(struct dpu_port *port, int request, uint64_t value);
HIDDEN int dpu_get_u64(struct dpu_port *port, int request, uint64_t *value);
HIDDEN int dpu_send_memory(struct dpu_port *port);
HIDDEN int dpu_send_ring(struct dpu_port *port, const struct ring *ring, uint32_t number);
HIDDEN int dpu_send_stop(struct dpu_port *port, uint32_t number);

/* connection.c: `port->lock` is held */
HIDDEN int dpu_connect(struct dpu_port *port);
HIDDEN int dpu_attach(struct queue *queue);
HIDDEN bool dpu_socket_ended(struct dpu_port *port);
HIDDEN void dpu_socket_shut(struct dpu_port *port);
HIDDEN void dpu_link_down(struct dpu_port *port);

/* port.c */
HIDDEN int64_t dpu_now_us(void);
HIDDEN int dpu_link_lost(struct dpu_port *port, uint32_t generation, int code, const char *why);
HIDDEN int dpu_recover(struct queue *queue);

#endif
