/* DPDK's environment inside the bench's process, and frames in its buffers. */
#include <stdlib.h>
#include <string.h>
#include <rte_eal.h>
#include <rte_mbuf.h>
#include "frames.h"

int eal_start(const char *cpu, const char *megabytes)
{
    char *argv[] = {"bench", "--no-huge", "--no-pci", "--no-telemetry", "--no-shconf",
                    "--force-max-simd-bitwidth=512", "--log-level=error", "-l", (char *)cpu,
                    "-m", (char *)megabytes, NULL};
    return rte_eal_init(sizeof(argv) / sizeof(*argv) - 1, argv);
}

void *frames_new(const uint8_t *data, const uint32_t *starts, const uint32_t *sizes, unsigned count)
{
    static unsigned number;
    char name[32];
    struct frames *f = calloc(1, sizeof(*f));
    unsigned room = 0;

    for (unsigned i = 0; i < count; i++)
        room = sizes[i] > room ? sizes[i] : room;
    snprintf(name, sizeof(name), "frames%u", number++);
    f->pool = rte_pktmbuf_pool_create(name, count, 0, 0, room + RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
    f->mbufs = calloc(count, sizeof(*f->mbufs));
    f->count = count;
    if (f->pool == NULL || rte_pktmbuf_alloc_bulk(f->pool, f->mbufs, count) != 0) {
        frames_free(f);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++)
        memcpy(rte_pktmbuf_append(f->mbufs[i], sizes[i]), data + starts[i], sizes[i]);
    return f;
}

void frames_free(void *frames)
{
    struct frames *f = frames;

    rte_mempool_free(f->pool);
    free(f->mbufs);
    free(f);
}
