/* What a C user has, called on the inputs of our kernels: DPDK 22.11, ISA-L.
 *
 * One shared object; library.py compiles it, starts DPDK's EAL in the process of the bench and declares
 * these functions to cffi. Each *_loop does `rounds` times what one of our loops does; where a call spoils its
 * input, what puts it right is not timed and the cycles of the rest are returned.
 */
#ifndef DPU_BENCH_MEMORY_H
#define DPU_BENCH_MEMORY_H

#include <stdint.h>

#define BURST 64 /* packets, dpu_runtime.kernels.layout.BATCH_SIZE */

/* eal.c */
int eal_start(const char *cpu, const char *megabytes);
void *frames_new(const uint8_t *data, const uint32_t *starts, const uint32_t *sizes, unsigned count);
void frames_free(void *frames);

/* parse.c */
struct parsed {
    uint64_t src_hi, src_lo, dst_hi, dst_lo;
    uint32_t flow_hash;
    uint16_t l3_offset, l4_offset, l5_offset, ethertype, vlan_tci, src_port, dst_port;
    uint8_t ip_proto, tcp_flags;
};
void parse_loop(void *frames, struct parsed *out, unsigned rounds);

/* sums.c */
uint64_t checksum_loop(const uint8_t *memory, unsigned size, unsigned step, unsigned places, unsigned count);
void copy_loop(uint8_t *to, const uint8_t *memory, unsigned size, unsigned step, unsigned places, unsigned count);
enum { CRC_ISCSI, CRC_GZIP, CRC_DPDK };
uint32_t crc_loop(int kind, const uint8_t *memory, unsigned size, unsigned step, unsigned places, unsigned count);

/* table.c: an rte_hash of 64-bit keys and words */
void *table_new(const uint64_t *keys, const uint64_t *values, unsigned count);
uint64_t table_loop(void *table, const uint64_t *keys, unsigned count, unsigned rounds);
void table_free(void *table);

/* acl.c */
struct acl_rule_in {
    uint32_t priority, userdata, src, src_bits, dst, dst_bits;
    uint16_t sport_low, sport_high, dport_low, dport_high;
    uint8_t proto, proto_mask;
};
void *acl_new(const struct acl_rule_in *rules, unsigned count);
int acl_loop(void *acl, uint8_t *rows, unsigned row_bytes, unsigned ip_at, const uint64_t *flows,
             unsigned flow_count, unsigned rounds, uint64_t *hits);
void acl_free(void *acl);

/* offloads.c */
int gso_loop(void *frames, unsigned size, unsigned rounds, uint8_t *out, uint32_t *out_sizes);
int gro_loop(void *frames, unsigned rounds, int verify, uint64_t *cycles, uint32_t *out_sizes);
int meter_loop(const uint32_t *sizes, unsigned count, uint64_t rate, uint64_t burst, uint64_t step,
               unsigned rounds);

#endif
