/* Rules over IPv4 addresses, ports and protocol: rte_acl, a burst at a time, right from the headers. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <rte_acl.h>
#include <rte_byteorder.h>
#include "memory.h"

enum { PROTO, SRC, DST, SPORT, DPORT, FIELDS };

/* from the protocol's octet on, RFC 791 3.1; options are not foreseen */
struct key {
    uint8_t proto;
    uint16_t checksum;
    uint32_t src, dst;
    uint16_t sport, dport;
} __attribute__((packed));

RTE_ACL_RULE_DEF(full_rule, FIELDS);

#define FIELD(number, kind, member, group)                                     \
    {.type = RTE_ACL_FIELD_TYPE_##kind, .size = sizeof(((struct key *)0)->member), \
     .field_index = number, .input_index = group, .offset = offsetof(struct key, member)}

static const struct rte_acl_field_def defs[FIELDS] = {
    FIELD(PROTO, BITMASK, proto, 0), FIELD(SRC, MASK, src, 1),    FIELD(DST, MASK, dst, 2),
    FIELD(SPORT, RANGE, sport, 3),   FIELD(DPORT, RANGE, dport, 3),
};

static int add(struct rte_acl_ctx *acl, const struct acl_rule_in *in)
{
    struct full_rule rule = {
        .data = {.category_mask = 1, .priority = in->priority, .userdata = in->userdata},
        .field = {
            [PROTO] = {.value.u8 = in->proto, .mask_range.u8 = in->proto_mask},
            [SRC] = {.value.u32 = in->src, .mask_range.u32 = in->src_bits},
            [DST] = {.value.u32 = in->dst, .mask_range.u32 = in->dst_bits},
            [SPORT] = {.value.u16 = in->sport_low, .mask_range.u16 = in->sport_high},
            [DPORT] = {.value.u16 = in->dport_low, .mask_range.u16 = in->dport_high},
        }};

    return rte_acl_add_rules(acl, (const struct rte_acl_rule *)&rule, 1);
}

void *acl_new(const struct acl_rule_in *rules, unsigned count)
{
    static unsigned number;
    char name[32];
    struct rte_acl_param param = {
        .name = name, .socket_id = SOCKET_ID_ANY, .rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = count};
    struct rte_acl_config config = {.num_categories = 1, .num_fields = FIELDS};
    struct rte_acl_ctx *acl;

    snprintf(name, sizeof(name), "acl%u", number++);
    memcpy(config.defs, defs, sizeof(defs));
    acl = rte_acl_create(&param);
    for (unsigned i = 0; acl != NULL && i < count; i++)
        if (add(acl, &rules[i]) != 0)
            goto fail;
    if (acl != NULL && rte_acl_build(acl, &config) == 0)
        return acl;
fail:
    rte_acl_free(acl);
    return NULL;
}

/* Each burst's packets get the next flows (address:32 | port:16) and are looked up; a match is counted in
 * hits[userdata], none in hits[0]. */
int acl_loop(void *acl, uint8_t *rows, unsigned row_bytes, unsigned ip_at, const uint64_t *flows,
             unsigned flow_count, unsigned rounds, uint64_t *hits)
{
    const uint8_t *data[BURST];
    uint32_t results[BURST];

    for (unsigned r = 0; r < rounds; r++)
        for (unsigned first = 0; first + BURST <= flow_count; first += BURST) {
            for (unsigned i = 0; i < BURST; i++) {
                struct key *key = (struct key *)(rows + i * row_bytes + ip_at + 9);
                key->src = rte_cpu_to_be_32(flows[first + i] >> 16);
                key->sport = rte_cpu_to_be_16(flows[first + i] & 0xffff);
                data[i] = (const uint8_t *)key;
            }
            if (rte_acl_classify(acl, data, results, BURST, 1) != 0)
                return -1;
            for (unsigned i = 0; i < BURST; i++)
                hits[results[i]]++;
        }
    return 0;
}

void acl_free(void *acl)
{
    rte_acl_free(acl);
}
