/* pending.c - which bound keys have changed since their newest result (bindings.h). Main thread only.
 *
 * Replicas note changes, too: so what the master could not finish is pending on the one that is promoted. Masters tell
 * them which keys are done (AI._BOUND). Deletions reach them as such. */
#include <string.h>

#include "bindings/bindings.h"
#include "redis/clock.h"

static int is_quiet;

void pending_set_quiet(int quiet) { is_quiet = quiet; }

static const char *bytes_of(const RedisModuleString *key, size_t *size) { return RedisModule_StringPtrLen(key, size); }

Pending *pending_find(const Binding *b, const RedisModuleString *key) {
    size_t size;
    const char *bytes = bytes_of(key, &size);
    return RedisModule_DictGetC(b->pending, (void *)bytes, size, NULL);
}

static void append(Binding *b, Pending *pending) {
    pending->previous = b->last;
    pending->next = NULL;
    *(b->last ? &b->last->next : &b->first) = pending;
    b->last = pending;
}

static void insert(Binding *b, Pending *pending) {
    size_t size;
    const char *bytes = bytes_of(pending->key, &size);
    RedisModule_DictSetC(b->pending, (void *)bytes, size, pending);
    b->npending++;
}

static void delete(RedisModuleDict *dict, Pending *pending) {
    size_t size;
    const char *bytes = bytes_of(pending->key, &size);
    RedisModule_DictDelC(dict, (void *)bytes, size, NULL);
    RedisModule_FreeString(NULL, pending->key);
    RedisModule_Free(pending);
}

Pending *pending_add(Binding *b, RedisModuleString *key) {
    Pending *pending = pending_find(b, key);
    if (pending) {
        if (!pending->has_changed) pending->changed = monotonic_ns();
        pending->has_changed = 1;
        return pending;
    }
    size_t size;
    const char *bytes = bytes_of(key, &size);
    pending = RedisModule_Calloc(1, sizeof(*pending));
    *pending = (Pending){.key = RedisModule_CreateString(NULL, bytes, size), .since = monotonic_ns()};
    insert(b, pending);
    append(b, pending);
    work_wake();
    return pending;
}

void pending_take(Binding *b, Pending *pending) {
    *(pending->previous ? &pending->previous->next : &b->first) = pending->next;
    *(pending->next ? &pending->next->previous : &b->last) = pending->previous;
    pending->is_running = 1;
    pending->has_changed = pending->is_gone = 0;
}

void pending_give_back(Binding *b, Pending *pending, int is_first) {
    pending->is_running = 0; /* is_gone stays: what comes next in a stream that was deleted is its first entry */
    if (!is_first || b->first == NULL) {
        append(b, pending);
        return;
    }
    pending->previous = NULL;
    pending->next = b->first;
    b->first->previous = pending;
    b->first = pending;
}

void pending_free(Binding *b, Pending *pending) {
    b->npending--;
    delete(b->pending, pending);
}

/* What was pending and is not needed any more. */
typedef struct Cleared {
    RedisModuleDict *dict;
    Pending *first;
    struct Cleared *next;
} Cleared;

static Cleared *cleared;

void pending_clear(Binding *b) {
    Cleared *old = RedisModule_Alloc(sizeof(*old));
    *old = (Cleared){.dict = b->pending, .first = b->first, .next = cleared};
    cleared = old;
    b->pending = RedisModule_CreateDict(NULL);
    b->first = b->last = NULL;
    b->npending = 0;
    for (int i = 0; i < MAX_UNDER_WAY; i++) {
        for (int j = 0; b->batches[i] && j < b->batches[i]->npending; j++) insert(b, b->batches[i]->pending[j]);
    }
    work_wake();
}

int pending_free_cleared(void) {
    while (cleared) {
        Cleared *old = cleared;
        for (Pending *next; old->first; old->first = next) {
            if (!work_has_time()) return 1;
            next = old->first->next;
            delete(old->dict, old->first);
        }
        RedisModule_FreeDict(NULL, old->dict);
        cleared = old->next;
        RedisModule_Free(old);
    }
    return 0;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

/* The newest entry of the stream, which the event is about. */
static RedisModuleStreamID newest_entry(RedisModuleCtx *ctx, RedisModuleString *name) {
    RedisModuleStreamID id = {0, 0};
    long nfields;
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    if (key && RedisModule_KeyType(key) == REDISMODULE_KEYTYPE_STREAM) {
        RedisModule_StreamIteratorStart(key, REDISMODULE_STREAM_ITERATOR_REVERSE, NULL, NULL);
        RedisModule_StreamIteratorNextID(key, &id, &nfields);
        RedisModule_StreamIteratorStop(key);
    }
    if (key) RedisModule_CloseKey(key);
    return id;
}

typedef struct Change {
    RedisModuleCtx *ctx;
    int type; /* REDISMODULE_NOTIFY_...; generic: what the key held before is gone */
} Change;

static void note_change(Binding *b, RedisModuleString *key, void *data) {
    const Change *change = data;
    int is_other = change->type == REDISMODULE_NOTIFY_GENERIC;
    if (change->type == (b->is_stream ? REDISMODULE_NOTIFY_HASH : REDISMODULE_NOTIFY_STREAM)) return;
    Pending *pending = pending_find(b, key);
    int is_new = pending == NULL || is_other || (pending->is_gone && !pending->has_changed);
    RedisModuleStreamID newest = {0, 0};
    if (b->is_stream && is_new) newest = newest_entry(change->ctx, key);
    if (b->is_stream && pending == NULL && newest.ms == 0 && newest.seq == 0) return;
    pending = pending_add(b, key);
    pending->is_gone |= is_other;
    /* Of a stream that was renamed or restored, no entry is new. */
    if (is_new) pending->from = (RedisModuleStreamID){newest.ms, newest.seq + is_other};
}

/* Nothing is left to be run. But a vector of the key is to be removed. */
static void note_end(Binding *b, RedisModuleString *key, void *data) {
    Pending *pending = pending_find(b, key);
    if (b->vector_set) {
        pending_add(b, key)->is_gone = 1;
    } else if (pending && pending->is_running) {
        pending->is_gone = 1;
        pending->has_changed = 0;
    } else if (pending) {
        pending_take(b, pending);
        pending_free(b, pending);
    }
}

static int is_one_of(const char *event, const char *const *events) {
    while (*events && strcmp(event, *events) != 0) events++;
    return *events != NULL;
}

static int key_changed(RedisModuleCtx *ctx, int type, const char *event, RedisModuleString *key) {
    static const char *const changes[] = {"rename_to", "restore", "copy_to", "move_to", NULL};
    static const char *const ends[] = {"del", "rename_from", "move_from", NULL};
    /* A key may expire when its fields are read: that is no result. */
    if (is_quiet && type & (REDISMODULE_NOTIFY_HASH | REDISMODULE_NOTIFY_STREAM)) return REDISMODULE_OK;
    int ended = type & (REDISMODULE_NOTIFY_EXPIRED | REDISMODULE_NOTIFY_EVICTED);
    if (type == REDISMODULE_NOTIFY_GENERIC) {
        ended = is_one_of(event, ends);
        if (!ended && !is_one_of(event, changes)) return REDISMODULE_OK;
    } else if (type == REDISMODULE_NOTIFY_STREAM && strcmp(event, "xadd") != 0) {
        return REDISMODULE_OK;
    }
    Change change = {.ctx = ctx, .type = type};
    bindings_of_key(ctx, key, ended ? note_end : note_change, &change);
    return REDISMODULE_OK;
}

/* A command that stores a value of another type tells no end of the hash that was there. */
static int key_stored(RedisModuleCtx *ctx, int type, const char *event, RedisModuleString *key) {
    size_t length = strlen(event);
    int is_stored = strcmp(event, "set") == 0 || (length > 5 && strcmp(event + length - 5, "store") == 0);
    if (is_stored) bindings_of_key(ctx, key, note_end, NULL);
    return REDISMODULE_OK;
}

void pending_watch(RedisModuleCtx *ctx, const Binding *b) {
    static int is_watching, is_watching_stores;
    if (!is_watching) {
        is_watching = 1;
        RedisModule_SubscribeToKeyspaceEvents(ctx,
                                              REDISMODULE_NOTIFY_GENERIC | REDISMODULE_NOTIFY_HASH |
                                                  REDISMODULE_NOTIFY_STREAM | REDISMODULE_NOTIFY_EXPIRED |
                                                  REDISMODULE_NOTIFY_EVICTED,
                                              key_changed);
    }
    /* Only then, since it makes every SET slower. Else a run finds out by itself that there is no hash. */
    if (b->vector_set && !is_watching_stores) {
        is_watching_stores = 1;
        RedisModule_SubscribeToKeyspaceEvents(
            ctx, REDISMODULE_NOTIFY_STRING | REDISMODULE_NOTIFY_LIST | REDISMODULE_NOTIFY_SET | REDISMODULE_NOTIFY_ZSET,
            key_stored);
    }
}
