/* Exact match of 64-bit keys: rte_hash as it comes, without its locks, a burst at a time. */
#include <stdio.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include "memory.h"

void *table_new(const uint64_t *keys, const uint64_t *values, unsigned count)
{
    static unsigned number;
    char name[32];
    struct rte_hash_parameters p = {
        .name = name, .entries = count + count / 4 + 64, .key_len = sizeof(*keys), .hash_func = rte_hash_crc};
    struct rte_hash *table;

    snprintf(name, sizeof(name), "table%u", number++);
    table = rte_hash_create(&p);
    for (unsigned i = 0; table != NULL && i < count; i++)
        if (rte_hash_add_key_data(table, &keys[i], (void *)(uintptr_t)values[i]) != 0) {
            rte_hash_free(table);
            table = NULL;
        }
    return table;
}

uint64_t table_loop(void *table, const uint64_t *keys, unsigned count, unsigned rounds)
{
    const void *burst[BURST];
    void *data[BURST];
    uint64_t total = 0, found;

    for (unsigned r = 0; r < rounds; r++)
        for (unsigned first = 0; first + BURST <= count; first += BURST) {
            for (unsigned i = 0; i < BURST; i++)
                burst[i] = &keys[first + i];
            rte_hash_lookup_bulk_data(table, burst, BURST, &found, data);
            for (unsigned i = 0; i < BURST; i++)
                total += found >> i & 1 ? (uintptr_t)data[i] : 0;
        }
    return total;
}

void table_free(void *table)
{
    rte_hash_free(table);
}
