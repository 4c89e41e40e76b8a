/* Checksums and CRCs over ranges of memory, round and round as our loops do. */
#include <string.h>
#include <isa-l/crc.h>
#include <rte_hash_crc.h>
#include <rte_ip.h>
#include "memory.h"

#define EACH_PLACE(place) \
    for (unsigned i = 0, place = 0; i < count; i++, place = place + 1 < places ? place + 1 : 0)

uint64_t checksum_loop(const uint8_t *memory, unsigned size, unsigned step, unsigned places, unsigned count)
{
    uint64_t total = 0;

    EACH_PLACE(place)
        total += rte_be_to_cpu_16(rte_raw_cksum(memory + (size_t)place * step, size));
    return total;
}

void copy_loop(uint8_t *to, const uint8_t *memory, unsigned size, unsigned step, unsigned places, unsigned count)
{
    EACH_PLACE(place) {
        memcpy(to, memory + (size_t)place * step, size);
        __asm__ volatile("" : : "r"(to) : "memory"); /* it is wanted */
    }
}

uint32_t crc_loop(int kind, const uint8_t *memory, unsigned size, unsigned step, unsigned places, unsigned count)
{
    uint32_t all = 0;

    EACH_PLACE(place) {
        const uint8_t *at = memory + (size_t)place * step;
        if (kind == CRC_ISCSI)
            all ^= ~crc32_iscsi((uint8_t *)at, size, ~0u) + i;
        else if (kind == CRC_GZIP)
            all ^= crc32_gzip_refl(0, at, size) + i;
        else
            all ^= ~rte_hash_crc(at, size, ~0u) + i;
    }
    return all;
}
