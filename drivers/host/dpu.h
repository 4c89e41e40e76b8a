/* libdpu: a host program's side of a DPU port.
 *
 * Spec: virtio 1.2 (2.7 split virtqueues, 5.1 network device); the vhost-user protocol, front-end side.
 *
 * A port is opened by the path of its Unix socket. Rings and packet buffers lie in one memory that is shared with the
 * DPU, so a packet is written once and read where it lies. A packet is a `struct dpu_buf`, or a chain of them.
 *
 * Threads: a queue belongs to one thread at a time, receive and transmit alike; two queues need no lock between them.
 * dpu_link_state, dpu_get_stats, dpu_features and dpu_shutdown may be called from any thread.
 *
 * Errors: a function that returns int returns a count or 0, or a negative `enum dpu_error`. dpu_error_text says more.
 */
#ifndef DPU_H
#define DPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What stands between the two marks is also what cffi is given (build_host.py): declarations, no expressions. */
/* cffi: begin */

enum dpu_error {
    DPU_OK = 0,
    DPU_EINVAL = -1,   /* an argument or option is out of range */
    DPU_ENOMEM = -2,   /* memory, or huge pages that were required */
    DPU_ECONNECT = -3, /* nobody listens on the socket, or nobody came in time */
    DPU_ELINK = -4,    /* the DPU went away; the next calls reconnect */
    DPU_EPROTO = -5,   /* the other side broke the protocol */
    DPU_ETIMEOUT = -6, /* the other side did not answer in `timeout_ms` */
    DPU_EREFUSED = -7, /* the other side refused a message */
    DPU_EFEATURE = -8, /* the other side lacks a feature that cannot be done without */
    DPU_ECLOSED = -9,  /* dpu_shutdown was called */
    DPU_ESYSTEM = -10, /* a system call failed; the text names it */
};

/* Offloads of `struct dpu_options` */
#define DPU_OFFLOAD_TX_CSUM 1  /* a packet may be sent with its checksum owed */
#define DPU_OFFLOAD_TX_TSO 2   /* TCP segments of up to 64 KB */
#define DPU_OFFLOAD_TX_USO 4   /* UDP, cut into datagrams by the DPU */
#define DPU_OFFLOAD_RX_CSUM 8  /* a packet may arrive with its checksum owed */
#define DPU_OFFLOAD_RX_TSO 16  /* TCP segments of up to 64 KB may arrive */
#define DPU_OFFLOAD_RX_USO 32
#define DPU_OFFLOAD_ALL 63

/* `flags` of a buffer, virtio 1.2 5.1.6 */
#define DPU_BUF_NEEDS_CSUM 1   /* the checksum from csum_start on is owed; a pseudo-header's sum is in its place */
#define DPU_BUF_DATA_VALID 2   /* received: the checksum was verified */

/* `gso_type` of a buffer, virtio 1.2 5.1.6; DPU_GSO_ECN is added to a TCP type */
#define DPU_GSO_NONE 0
#define DPU_GSO_TCPV4 1
#define DPU_GSO_TCPV6 4
#define DPU_GSO_UDP 5
#define DPU_GSO_ECN 128

#define DPU_HUGE_NEVER 0
#define DPU_HUGE_TRY 1         /* dpu_get_info says what it became */
#define DPU_HUGE_REQUIRE 2

#define DPU_HEADROOM 128       /* octets in front of `data` of a fresh buffer */
#define DPU_FRAME_MAX 65550    /* octets of a packet, its 14 of Ethernet included */
#define DPU_SEGMENTS_MAX 64    /* buffers of a packet that is sent */
#define DPU_ALL_QUEUES -1

/* A piece of a packet, one cache line in the program's own memory; fields after `user` belong to the library. */
struct dpu_buf {
    uint8_t *data;        /* first octet, in shared memory; may be moved into the headroom, or forward */
    struct dpu_buf *next; /* further pieces of this packet, or NULL */
    uint32_t len;         /* octets at `data`, of this piece */
    uint32_t capacity;    /* octets there is room for at a fresh `data` */
    /* of the whole packet, in its first piece */
    uint16_t csum_start;  /* octets from the start of the frame, if DPU_BUF_NEEDS_CSUM */
    uint16_t csum_offset; /* octets from csum_start */
    uint16_t gso_size;    /* octets of payload in a segment, if gso_type */
    uint16_t hdr_len;     /* octets of the headers to repeat, if gso_type; a hint */
    uint8_t flags;        /* DPU_BUF_* */
    uint8_t gso_type;     /* DPU_GSO_* */
    uint16_t segments;    /* received: pieces of this packet; written by dpu_tx_burst */
    uint32_t index;       /* 0 .. bufs_total - 1, of this buffer; read only */
    uint64_t user;        /* the program's; kept while it owns the buffer */
    uint8_t *base;
    uint64_t reserved;
};

struct dpu_options {
    uint32_t size;          /* octets of this struct, set by dpu_options_init */
    uint32_t offloads;      /* DPU_OFFLOAD_*, asked for; default DPU_OFFLOAD_ALL */
    uint32_t queues;        /* queue pairs, 1..128; default 1 */
    uint32_t ring_size;     /* descriptors a ring, a power of two, 64..32768; default 512 */
    uint32_t buf_size;      /* octets a buffer holds, 256..65600; default 2048. 65550 takes any packet in one piece */
    uint32_t buf_count;     /* buffers of the port; default 0: enough for full rings and as many again */
    uint32_t connect_ms;    /* how long dpu_open waits for the other side; default 0: it must be there */
    uint32_t timeout_ms;    /* how long an answer may take; default 2000 */
    uint32_t reconnect_ms;  /* longest pause between two attempts to reconnect; default 1000 */
    uint32_t huge_pages;    /* DPU_HUGE_*; default DPU_HUGE_NEVER */
    uint32_t server;        /* 1: listen on the path, for a DPU port in client mode; default 0 */
};

struct dpu_stats {
    uint64_t rx_packets, rx_bytes; /* octets of frames, without FCS */
    uint64_t rx_errors;            /* packets with a length, a header or a count that cannot be; dropped */
    uint64_t tx_packets, tx_bytes;
    uint64_t tx_errors;            /* packets that cannot be sent: empty, too long, GSO that was not negotiated; dropped */
    uint64_t tx_full;              /* packets not taken, for want of room in the ring */
    uint64_t tx_checksums;         /* owed checksums that the library finished: the other side does not */
    uint64_t tx_resent;            /* packets handed over again to a restarted DPU */
    uint64_t kicks;                /* eventfd writes that woke the other side */
    uint64_t wakeups;              /* waits that ended by an eventfd */
    uint64_t reconnects, link_losses;
    /* Where the buffers are, in all queues: total = pool + rings + app. The sum holds when no call is under way. */
    uint64_t bufs_total, bufs_pool, bufs_rings, bufs_app;
};

struct dpu_info {
    uint8_t *memory;       /* the memory shared with the DPU, rings and buffers */
    uint64_t memory_bytes;
    struct dpu_buf *bufs;  /* struct dpu_buf[buf_count], in order of `index` */
    uint32_t buf_count;
    uint32_t buf_size;
    uint32_t queues;
    uint32_t ring_size;
    uint32_t page_bytes;   /* of `memory` */
    uint64_t protocol_features; /* negotiated, of vhost-user */
};

struct dpu_port;

/* Set every option to its default. Options may be NULL in dpu_open. */
void dpu_options_init(struct dpu_options *options);

/* Open the port behind the socket `path`: connect, negotiate, start the rings. On an error *port is NULL and
 * dpu_error_text(NULL) of this thread says why. */
int dpu_open(const char *path, const struct dpu_options *options, struct dpu_port **port);

/* End the connection for good; calls under way in other threads return DPU_ECLOSED. Buffers stay readable. */
void dpu_shutdown(struct dpu_port *port);

/* Shut down and free everything, buffers included. No other call on the port may be under way. NULL is allowed. */
void dpu_close(struct dpu_port *port);

/* Take up to `count` empty buffers; returns how many there were. They are the program's until sent or freed. */
int dpu_buf_alloc(struct dpu_port *port, int queue, struct dpu_buf **bufs, int count);

/* Give packets back, with all their pieces; `queue` is the one of this thread, whichever they came from. */
void dpu_buf_free(struct dpu_port *port, int queue, struct dpu_buf **bufs, int count);

/* Octets of a packet, all pieces. */
uint32_t dpu_buf_length(const struct dpu_buf *buf);

/* Copy at most `size` octets of a packet out of all its pieces; returns how many. */
uint32_t dpu_buf_read(const struct dpu_buf *buf, void *octets, uint32_t size);

/* Finish an owed checksum in place and clear DPU_BUF_NEEDS_CSUM. DPU_EINVAL: its place is outside the packet. */
int dpu_buf_checksum(struct dpu_buf *buf);

/* Receive up to `count` packets; they are the program's. Returns how many, 0 if there are none, or DPU_ELINK once
 * what arrived before the link went down is taken. */
int dpu_rx_burst(struct dpu_port *port, int queue, struct dpu_buf **bufs, int count);

/* Send up to `count` packets; returns how many were taken, from the first on. Those are the library's, the others
 * stay the program's. A packet that can never be sent is taken, dropped and counted in tx_errors. */
int dpu_tx_burst(struct dpu_port *port, int queue, struct dpu_buf **bufs, int count);

/* Sleep until a packet can be received, at most `timeout_us` (-1: for ever). Returns 1, or 0 when the time is over,
 * or DPU_ELINK when the link went down or is still down at the end of the time. */
int dpu_wait(struct dpu_port *port, int queue, int64_t timeout_us);

/* The same, until at least half of the transmit ring is free. */
int dpu_wait_tx(struct dpu_port *port, int queue, int64_t timeout_us);

/* 1: up, 0: down. */
int dpu_link_state(struct dpu_port *port);

/* Negotiated feature bits, virtio 1.2 5.1.3 and 6. They may change when the port reconnects. */
uint64_t dpu_features(struct dpu_port *port);

void dpu_get_info(struct dpu_port *port, struct dpu_info *info);

/* Counters of a queue, or of DPU_ALL_QUEUES. The last two lines are of the port in any case. */
int dpu_get_stats(struct dpu_port *port, int queue, struct dpu_stats *stats);

/* What a code means, in general. */
const char *dpu_strerror(int code);

/* The cause of the last error of a port, as text of the calling thread, good until its next call; with NULL of the last
 * dpu_open of this thread that failed. */
const char *dpu_error_text(struct dpu_port *port);

/* cffi: end */

#ifdef __cplusplus
}
#endif

#endif
