/* script_calls.c - Redis from scripts: redis.execute and redisAI.model_execute (bridge.h).
 *
 * Workers call, holding neither the GIL nor a mutex, and take the Redis lock. The main thread releases it whenever its
 * loop sleeps. Everything between lock and unlock happens as if the main thread did it. The loader never enters: the
 * main thread may wait for it. */
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "bridge.h"
#include "engine/jobs.h"
#include "redis/api.h"
#include "run/state.h"
#include "values/model.h"
#include "values/runnable.h"

#define PAUSE_US 5000
#define GONE "ERR the client that called the script does not wait any more"

/* One context for all calls, made on the first one. Only the holder of the Redis lock uses it. */
static RedisModuleCtx *calls;

/* Takes the Redis lock and makes the context act for the run's user, in its database. NULL: the client has left, or the
 * user is gone; the lock is not held. */
static RedisModuleUser *enter(const Run *run) {
    RedisModuleUser *user = NULL;
    RedisModule_ThreadSafeContextLock(log_context);
    /* Redis aborts when something is replicated while writes are paused (CLIENT PAUSE, a failover). */
    while (run_is_waiting(run) && RedisModule_AvoidReplicaTraffic()) {
        RedisModule_ThreadSafeContextUnlock(log_context);
        usleep(PAUSE_US);
        RedisModule_ThreadSafeContextLock(log_context);
    }
    /* Clients time out and disconnect on the main thread, so this cannot change under the lock. */
    if (run_is_waiting(run) && run->user) {
        RedisModuleString *name = RedisModule_CreateString(NULL, run->user, strlen(run->user));
        user = RedisModule_GetModuleUserFromUserName(name);
        RedisModule_FreeString(NULL, name);
    }
    if (user == NULL) {
        RedisModule_ThreadSafeContextUnlock(log_context);
        return NULL;
    }
    if (calls == NULL) calls = RedisModule_GetDetachedThreadSafeContext(log_context);
    RedisModule_SelectDb(calls, run->db);
    RedisModule_SetContextUser(calls, user);
    return user;
}

static void leave(RedisModuleUser *user) {
    RedisModule_SetContextUser(calls, NULL);
    RedisModule_FreeModuleUser(user);
    RedisModule_ThreadSafeContextUnlock(calls); /* this also sends the writes to replicas and the AOF */
}

static int is_same(Bytes one, Bytes other) {
    return one.size == other.size && memcmp(one.data, other.data, one.size) == 0;
}

/* The part of a key that decides its slot in a cluster. */
static Bytes hash_tag(Bytes key) {
    const char *open = memchr(key.data, '{', key.size);
    if (open == NULL) return key;
    const char *close = memchr(open, '}', key.size - (open - key.data));
    if (close == NULL || close == open + 1) return key;
    return (Bytes){.data = open + 1, .size = close - open - 1};
}

/* Whether KEYS names the key. In a DAG with ROUTING, the keys of that hash tag are declared too. */
static int is_declared(const Op *op, const char *key, size_t size) {
    Bytes name = {.data = key, .size = size};
    for (int i = 0; i < op->nkeys; i++) {
        if (is_same(op->keys[i], name)) return 1;
    }
    return op->run->routing.data && is_same(hash_tag(op->run->routing), hash_tag(name));
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

static void set_text(Reply *reply, int type, const char *text, size_t size) {
    reply->type = type;
    reply->size = size;
    reply->text = RedisModule_Alloc(size + 1);
    memcpy(reply->text, text, size);
    reply->text[size] = '\0';
}

static Reply *error_reply(const char *text) {
    Reply *reply = RedisModule_Calloc(1, sizeof(*reply));
    set_text(reply, REPLY_ERROR, text, strlen(text));
    return reply;
}

static void convert(Reply *reply, RedisModuleCallReply *from) {
    size_t size;
    const char *text;
    switch (RedisModule_CallReplyType(from)) {
    case REDISMODULE_REPLY_STRING:
        text = RedisModule_CallReplyStringPtr(from, &size);
        set_text(reply, REPLY_STRING, text, size);
        break;
    case REDISMODULE_REPLY_ERROR:
        text = RedisModule_CallReplyStringPtr(from, &size);
        set_text(reply, REPLY_ERROR, text, size);
        break;
    case REDISMODULE_REPLY_INTEGER:
        reply->type = REPLY_INTEGER;
        reply->integer = RedisModule_CallReplyInteger(from);
        break;
    case REDISMODULE_REPLY_DOUBLE:
        reply->type = REPLY_DOUBLE;
        reply->real = RedisModule_CallReplyDouble(from);
        break;
    case REDISMODULE_REPLY_ARRAY:
        reply->type = REPLY_ARRAY;
        reply->count = (int64_t)RedisModule_CallReplyLength(from);
        reply->items = reply->count ? RedisModule_Calloc(reply->count, sizeof(Reply)) : NULL;
        for (int64_t i = 0; i < reply->count; i++) {
            convert(&reply->items[i], RedisModule_CallReplyArrayElement(from, i));
        }
        break;
    default: reply->type = REPLY_NULL; /* commands answer in RESP2 here: there are no other types */
    }
}

static void free_content(Reply *reply) {
    for (int64_t i = 0; i < reply->count; i++) free_content(&reply->items[i]);
    RedisModule_Free(reply->items);
    RedisModule_Free(reply->text);
}

void bridge_free_reply(Reply *reply) {
    free_content(reply);
    RedisModule_Free(reply);
}

/* ---- redis.execute ----------------------------------------------------------------------------------------------- */

static int word_is(const Bytes *word, const char *text) {
    return word->size == strlen(text) && strncasecmp(word->data, text, word->size) == 0;
}

static int is_one_of(const Bytes *word, const char *const *texts) {
    for (; *texts; texts++) {
        if (word_is(word, *texts)) return 1;
    }
    return 0;
}

static int has_word(const Bytes *words, int count, const char *text) {
    for (int i = 1; i < count; i++) {
        if (word_is(&words[i], text)) return 1;
    }
    return 0;
}

/* Redis itself refuses most blocking commands in scripts. These would return at once without data, unnoticed. */
static int is_blocking(const Bytes *words, int count) {
    static const char *const pops[] = {"BLMPOP", "BZMPOP", NULL};
    static const char *const reads[] = {"XREAD", "XREADGROUP", NULL};
    if (is_one_of(&words[0], pops)) return 1;
    if (!is_one_of(&words[0], reads)) return 0;
    for (int i = 1; i < count && !word_is(&words[i], "STREAMS"); i++) {
        if (word_is(&words[i], "BLOCK")) return 1;
    }
    return 0;
}

/* These commands touch keys that they do not name: all keys, or those that a pattern of SORT describes. */
static int touches_unnamed_keys(const Bytes *words, int count) {
    static const char *const whole[] = {"FLUSHALL", "FLUSHDB", "SWAPDB", NULL};
    static const char *const sorts[] = {"SORT", "SORT_RO", NULL};
    if (is_one_of(&words[0], whole)) return 1;
    return is_one_of(&words[0], sorts) && (has_word(words, count, "BY") || has_word(words, count, "GET"));
}

/* The first key of the command that is not declared, or -1. */
static int undeclared_key(const Op *op, RedisModuleString **argv, int count) {
    int keys, found = -1;
    int *positions = RedisModule_GetCommandKeys(calls, argv, count, &keys);
    if (positions == NULL) return -1; /* no keys, or an unknown command, which the call itself reports */
    for (int i = 0; i < keys && found == -1; i++) {
        size_t size;
        const char *key = RedisModule_StringPtrLen(argv[positions[i]], &size);
        if (!is_declared(op, key, size)) found = positions[i];
    }
    RedisModule_Free(positions);
    return found;
}

static Reply *call(const Op *op, const Bytes *words, RedisModuleString **argv, int count) {
    if (is_blocking(words, count)) return error_reply("ERR a blocking command cannot be used in a script");
    if (touches_unnamed_keys(words, count) || undeclared_key(op, argv, count) != -1) {
        return error_reply("ERR the script touches a key that was not declared with KEYS");
    }
    /* ! replicate, C as the context's user, E errors as replies, M no writes when out of memory, S as in Lua scripts.
     */
    RedisModuleCallReply *answer = RedisModule_Call(calls, words[0].data, "!CEMSv", argv + 1, (size_t)count - 1);
    if (answer == NULL) return error_reply("ERR the command cannot be run from a script");
    Reply *reply = RedisModule_Calloc(1, sizeof(*reply));
    convert(reply, answer);
    RedisModule_FreeCallReply(answer);
    return reply;
}

Reply *bridge_call(Op *op, const Bytes *words, int count) {
    if (count == 0) return error_reply("ERR no command given");
    RedisModuleUser *user = enter(op->run);
    if (user == NULL) return error_reply(GONE);

    RedisModuleString **argv = RedisModule_Alloc(count * sizeof(*argv));
    for (int i = 0; i < count; i++) argv[i] = RedisModule_CreateString(NULL, words[i].data, words[i].size);
    Reply *reply = call(op, words, argv, count);
    for (int i = 0; i < count; i++) RedisModule_FreeString(NULL, argv[i]);
    RedisModule_Free(argv);
    leave(user);
    return reply;
}

/* ---- redisAI.model_execute --------------------------------------------------------------------------------------- */

/* A reference to the model at this key. Or NULL, with *error set to a constant. */
static Model *find_model(const Op *op, RedisModuleUser *user, Bytes key, const char **error) {
    if (!is_declared(op, key.data, key.size)) {
        *error = "ERR the script runs a model whose key was not declared with KEYS";
        return NULL;
    }
    RedisModuleString *name = RedisModule_CreateString(NULL, key.data, key.size);
    Model *model = NULL;
    *error = "ERR model key is empty";
    if (RedisModule_ACLCheckKeyPermissions(user, name, REDISMODULE_CMD_KEY_ACCESS) == REDISMODULE_ERR) {
        *error = "NOPERM this user has no permissions to access the model's key";
    } else {
        RedisModuleKey *opened = RedisModule_OpenKey(calls, name, REDISMODULE_READ);
        if (opened && RedisModule_KeyType(opened) != REDISMODULE_KEYTYPE_EMPTY) {
            if (RedisModule_ModuleTypeGetType(opened) == ModelType) {
                model = (Model *)runnable_ref(RedisModule_ModuleTypeGetValue(opened));
            } else {
                *error = REDISMODULE_ERRORMSG_WRONGTYPE;
            }
        }
        if (opened) RedisModule_CloseKey(opened);
    }
    RedisModule_FreeString(NULL, name);
    return model;
}

/* Waits for the loader, without the Redis lock. Returns an error, which the caller frees, or NULL. */
static char *await_ready(Model *model) {
    if (runnable_is_ready(&model->base)) return NULL;
    LoaderJob *job = job_new(JOB_LOAD, runnable_ref(&model->base));
    job_post_and_wait(job, 0);
    char *error = job->error ? RedisModule_Strdup(job->error) : NULL;
    job_free(job);
    return error;
}

Model *bridge_hold_model(Op *op, Bytes key, char **error) {
    const char *reason = GONE;
    Model *model = NULL;
    RedisModuleUser *user = enter(op->run);
    if (user) {
        model = find_model(op, user, key, &reason);
        leave(user);
    }
    if (model == NULL) {
        *error = RedisModule_Strdup(reason);
        return NULL;
    }
    *error = await_ready(model);
    if (*error == NULL) return model;
    runnable_unref(&model->base);
    return NULL;
}

void bridge_release_model(Model *model, int64_t duration, int64_t samples, int failed) {
    if (duration >= 0) {
        stats_count(&model->base.state->stats,
                    &(Execution){.duration = duration, .queued = -1, .samples = samples, .failed = failed});
    }
    runnable_unref(&model->base);
}
