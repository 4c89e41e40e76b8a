#ifndef DPU_BENCH_FRAMES_H
#define DPU_BENCH_FRAMES_H

#include <rte_mbuf.h>
#include "memory.h"

struct frames {
    struct rte_mempool *pool;
    struct rte_mbuf **mbufs;
    unsigned count;
};

#endif
