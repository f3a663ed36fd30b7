/* registry.c - what the flow process keeps on the server: payloads by their id, also in RDB files (flows.h). Main
 * thread, and the BGSAVE child.
 *
 * Servers whose flows are off keep them, too, so that nothing is lost. Those before Redis 7.2 save them only with FLOWS
 * yes: else no server without the module could load their files. */
#include "engine/options.h"
#include "flows/flows.h"
#include "values/rdb.h"

#define ENCODING_VERSION 0

typedef struct Entry {
    RedisModuleString *id, *payload;
    struct Entry *next;
} Entry;

typedef struct Entries {
    Entry *first, **end;
    int64_t count;
} Entries;

static Entries entries = {.end = &entries.first};
static Entries arriving = {.end = &arriving.first}; /* while this replica still serves its old data */
static int is_arriving;

int64_t registry_count(void) { return entries.count; }

/* Takes the strings over. */
static void append(Entries *list, RedisModuleString *id, RedisModuleString *payload) {
    Entry *entry = RedisModule_Alloc(sizeof(*entry));
    *entry = (Entry){.id = id, .payload = payload};
    *list->end = entry;
    list->end = &entry->next;
    list->count++;
}

static void clear(Entries *list) {
    for (Entry *next, *entry = list->first; entry; entry = next) {
        next = entry->next;
        RedisModule_FreeString(NULL, entry->id);
        RedisModule_FreeString(NULL, entry->payload);
        RedisModule_Free(entry);
    }
    *list = (Entries){.end = &list->first};
}

void registry_set(const RedisModuleString *id, const RedisModuleString *payload) {
    Entry **at = &entries.first;
    while (*at && RedisModule_StringCompare((*at)->id, id) != 0) at = &(*at)->next;
    Entry *entry = *at;
    if (entry && payload) {
        RedisModule_FreeString(NULL, entry->payload);
        entry->payload = flows_copy(payload);
    } else if (entry) {
        *at = entry->next;
        if (entry->next == NULL) entries.end = at;
        entries.count--;
        RedisModule_FreeString(NULL, entry->id);
        RedisModule_FreeString(NULL, entry->payload);
        RedisModule_Free(entry);
    } else if (payload) {
        append(&entries, flows_copy(id), flows_copy(payload));
    }
}

int registry_reply(RedisModuleCtx *ctx) {
    RedisModule_ReplyWithArray(ctx, 2 * entries.count);
    for (const Entry *entry = entries.first; entry; entry = entry->next) {
        RedisModule_ReplyWithString(ctx, entry->id);
        RedisModule_ReplyWithString(ctx, entry->payload);
    }
    return REDISMODULE_OK;
}

/* ---- RDB: u count, for each: s id, s payload --------------------------------------------------------------------- */

static void save(RedisModuleIO *io, int when) {
    if (entries.count == 0 && rdb_beside_keys_is_free()) return;
    RedisModule_SaveUnsigned(io, entries.count);
    for (const Entry *entry = entries.first; entry; entry = entry->next) {
        rdb_save_string(io, entry->id);
        rdb_save_string(io, entry->payload);
    }
}

static int load(RedisModuleIO *io, int encver, int when) {
    uint64_t count = encver == ENCODING_VERSION ? RedisModule_LoadUnsigned(io) : 0;
    int failed = encver != ENCODING_VERSION || RedisModule_IsIOError(io);
    for (uint64_t i = 0; i < count && !failed; i++) {
        RedisModuleString *id = rdb_load_string(io), *payload = id ? rdb_load_string(io) : NULL;
        failed = payload == NULL;
        if (payload) append(is_arriving ? &arriving : &entries, id, payload);
        if (id && failed) RedisModule_FreeString(NULL, id);
    }
    if (!failed) return REDISMODULE_OK;
    RedisModule_LogIOError(io, "warning", "cannot load the flows: the data are broken or of a newer version");
    return REDISMODULE_ERR;
}

/* Other data replace those that there are, and so do their flows; what arrives beside them does so in the end. */
static void loading(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    /* Half of a broken file does not stay either. */
    if (subevent != REDISMODULE_SUBEVENT_LOADING_ENDED && !is_arriving) clear(&entries);
    flow_process_consider(1);
}

static void arrived(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    is_arriving = subevent == REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_STARTED;
    if (subevent == REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_COMPLETED) {
        Entries old = entries;
        entries = arriving;
        if (entries.first == NULL) entries.end = &entries.first;
        arriving = old;
    }
    clear(&arriving);
}

int registry_init(RedisModuleCtx *ctx) {
    int is_saved = rdb_beside_keys_is_free() || flows_option();
    return (is_saved && rdb_register_beside_keys(ctx, "AI__FLOWS", ENCODING_VERSION, load, save)) ||
           listen_to(ctx, REDISMODULE_EVENT_LOADING, loading) ||
           listen_to(ctx, REDISMODULE_EVENT_REPL_ASYNC_LOAD, arrived);
}
