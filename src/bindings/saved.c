/* saved.c - bindings in RDB files (bindings.h): what is bound, and what is pending. Main thread, and the BGSAVE child.
 *
 * Servers before Redis 7.2 always write data beside keys, and no server without the module loads such a file. So there
 * the type is registered only with the option BINDINGS. */
#include <string.h>

#include "bindings/bindings.h"
#include "engine/options.h"
#include "redis/command.h"
#include "redis/event_loop.h"
#include "values/rdb.h"

#define ENCODING_VERSION 0

int bindings_are_saved(void) { return rdb_beside_keys_is_free() || bindings_option(); }

/* What a master sends while this replica still serves its old data. */
static Binding *arriving;
static int is_arriving;

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static void save_pending(RedisModuleIO *io, const Pending *pending) {
    rdb_save_string(io, pending->key);
    RedisModule_SaveUnsigned(io, pending->from.ms);
    RedisModule_SaveUnsigned(io, pending->from.seq);
}

/* u db, s user, u filling, u words, the words, u pending, for each: s key, u ms, u seq */
static void save_binding(RedisModuleIO *io, const Binding *b) {
    RedisModule_SaveUnsigned(io, b->db);
    rdb_save_string(io, b->user);
    RedisModule_SaveUnsigned(io, b->is_filling);
    RedisModule_SaveUnsigned(io, b->nwords);
    for (int i = 0; i < b->nwords; i++) rdb_save_string(io, b->words[i]);
    RedisModule_SaveUnsigned(io, b->npending);
    for (int i = 0; i < MAX_UNDER_WAY; i++) {
        const Batch *batch = b->batches[i];
        for (int j = 0; batch && j < batch->npending; j++) save_pending(io, batch->pending[j]);
    }
    for (const Pending *pending = b->first; pending; pending = pending->next) save_pending(io, pending);
}

static void aux_save(RedisModuleIO *io, int when) {
    uint64_t count = 0;
    for (const Binding *b = bindings_first(); b; b = b->next) count++;
    if (count == 0 && rdb_beside_keys_is_free()) return;
    RedisModule_SaveUnsigned(io, count);
    for (const Binding *b = bindings_first(); b; b = b->next) save_binding(io, b);
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static void free_strings(RedisModuleString **strings, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) RedisModule_FreeString(NULL, strings[i]);
    RedisModule_Free(strings);
}

/* NULL: the data are broken. The list grows as words arrive: a broken count allocates nothing. */
static RedisModuleString **load_strings(RedisModuleIO *io, uint64_t count) {
    RedisModuleString **strings = NULL;
    for (uint64_t i = 0; i < count; i++) {
        if ((i & (i - 1)) == 0) strings = RedisModule_Realloc(strings, (i ? 2 * i : 1) * sizeof(*strings));
        strings[i] = rdb_load_string(io);
        if (strings[i]) continue;
        free_strings(strings, i);
        return NULL;
    }
    return strings;
}

static int load_pending(RedisModuleIO *io, Binding *b) {
    uint64_t count = RedisModule_LoadUnsigned(io);
    for (uint64_t i = 0; i < count && !RedisModule_IsIOError(io); i++) {
        RedisModuleString *key = rdb_load_string(io);
        RedisModuleStreamID from = {RedisModule_LoadUnsigned(io), 0};
        from.seq = RedisModule_LoadUnsigned(io);
        if (key && !RedisModule_IsIOError(io)) pending_add(b, key)->from = from;
        if (key) RedisModule_FreeString(NULL, key);
    }
    return RedisModule_IsIOError(io) ? -1 : 0;
}

static Binding *parse_saved(RedisModuleIO *io, uint64_t db, RedisModuleString *user) {
    uint64_t filling = RedisModule_LoadUnsigned(io), count = RedisModule_LoadUnsigned(io);
    if (RedisModule_IsIOError(io) || db > INT32_MAX || count == 0 || count > INT32_MAX) return NULL;
    if (RedisModule_SelectDb(log_context, (int)db) == REDISMODULE_ERR) return NULL;
    RedisModuleString **words = load_strings(io, count);
    if (words == NULL) return NULL;
    Binding *b = binding_parse(NULL, words, (int)count, (int)db, user);
    free_strings(words, count);
    if (b == NULL) return NULL;
    b->is_filling = filling != 0;
    if (load_pending(io, b) == 0) return b;
    binding_unref(b);
    return NULL;
}

static Binding *load_binding(RedisModuleIO *io) {
    uint64_t db = RedisModule_LoadUnsigned(io);
    RedisModuleString *user = rdb_load_string(io);
    Binding *b = user ? parse_saved(io, db, user) : NULL;
    if (user) RedisModule_FreeString(NULL, user);
    return b;
}

static int aux_load(RedisModuleIO *io, int encver, int when) {
    uint64_t count = encver == ENCODING_VERSION ? RedisModule_LoadUnsigned(io) : 1;
    Binding **last = &arriving;
    while (*last) last = &(*last)->next;
    for (uint64_t i = 0; i < count; i++) {
        Binding *b = encver == ENCODING_VERSION ? load_binding(io) : NULL;
        if (b == NULL) {
            RedisModule_LogIOError(io, "warning",
                                   "cannot load the bindings: the data are broken, of a newer version, or of a "
                                   "server with more databases");
            return REDISMODULE_ERR;
        }
        pending_watch(log_context, b);
        if (is_arriving) {
            *last = b;
            last = &b->next;
        } else {
            bindings_add(b);
        }
    }
    return REDISMODULE_OK;
}

/* Other data replace those that there are, and so do their bindings; what arrives beside them does so in the end. */
static void loading(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    int has_ended = subevent == REDISMODULE_SUBEVENT_LOADING_ENDED || subevent == REDISMODULE_SUBEVENT_LOADING_FAILED;
    if (!has_ended && !is_arriving) bindings_replace(NULL);
    if (has_ended) work_wake();
}

static void arrived(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    is_arriving = subevent == REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_STARTED;
    if (subevent == REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_COMPLETED) {
        bindings_replace(arriving);
        arriving = NULL;
    }
    for (Binding *next; arriving; arriving = next) {
        next = arriving->next;
        binding_unref(arriving);
    }
}

int saved_init(RedisModuleCtx *ctx) {
    if (!bindings_are_saved()) return REDISMODULE_OK;
    if (rdb_register_beside_keys(ctx, "AI__BINDS", ENCODING_VERSION, aux_load, aux_save)) return REDISMODULE_ERR;
    return listen_to(ctx, REDISMODULE_EVENT_LOADING, loading) ||
           listen_to(ctx, REDISMODULE_EVENT_REPL_ASYNC_LOAD, arrived);
}
