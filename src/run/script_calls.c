/* script_calls.c - Redis from scripts: redis.execute and redisAI.model_execute (bridge.h).
 *
 * Newer servers check that whatever touches clients runs on the main thread. So a worker posts a call and sleeps until
 * the main thread has performed it. The loader never enters: the main thread may wait for it. Lock: calls.mutex, a
 * leaf, held for a few instructions. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/jobs.h"
#include "redis/event_loop.h"
#include "run/script_calls.h"
#include "values/model.h"

#define GONE "ERR the client that called the script does not wait any more"

/* On the worker's stack until it is done. */
typedef struct LocalCall {
    ScriptCall call;
    int is_done;
} LocalCall;

static const CallsElsewhere *elsewhere; /* set at the start of an engine process */

void calls_set_elsewhere(const CallsElsewhere *given) { elsewhere = given; }

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t done; /* of any call */
} calls = {.mutex = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static void call_command(RedisModuleCtx *ctx, ScriptCall *call);
static void find_model(RedisModuleCtx *ctx, RedisModuleUser *user, ScriptCall *call);

/* Acts as the run's user, in its database. Clients time out and disconnect on this thread, so none does meanwhile. */
static void act_as_user(RedisModuleCtx *ctx, ScriptCall *call) {
    const Run *run = call->op->run;
    call->error = GONE;
    if (!run_is_waiting(run) || run->user == NULL) return;
    RedisModuleString *name = RedisModule_CreateString(NULL, run->user, strlen(run->user));
    RedisModuleUser *user = RedisModule_GetModuleUserFromUserName(name);
    RedisModule_FreeString(NULL, name);
    if (user == NULL) return;
    call->error = NULL;
    RedisModule_SelectDb(ctx, run->waiter.db);
    RedisModule_SetContextUser(ctx, user);
    if (call->words) {
        call_command(ctx, call);
    } else {
        find_model(ctx, user, call);
    }
    RedisModule_SetContextUser(ctx, NULL);
    RedisModule_FreeModuleUser(user);
}

static void perform(RedisModuleCtx *ctx, Task *task) {
    ScriptCall *call = (ScriptCall *)task;
    act_as_user(ctx, call);
    call->done(call);
}

/* While writes are paused, a script whose client has gone must not hold its worker. */
static int is_void(const Task *task) { return !run_is_waiting(((const ScriptCall *)task)->op->run); }

void calls_post(ScriptCall *call) {
    call->task = (Task){.perform = perform, .is_void = is_void};
    event_loop_post(&call->task);
}

static void wake_worker(ScriptCall *call) {
    pthread_mutex_lock(&calls.mutex);
    ((LocalCall *)call)->is_done = 1;
    pthread_cond_broadcast(&calls.done);
    pthread_mutex_unlock(&calls.mutex);
}

static void ask(LocalCall *local) {
    local->call.done = wake_worker;
    calls_post(&local->call);
    pthread_mutex_lock(&calls.mutex);
    while (!local->is_done) pthread_cond_wait(&calls.done, &calls.mutex);
    pthread_mutex_unlock(&calls.mutex);
}

/* ---- declared keys ----------------------------------------------------------------------------------------------- */

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
static int is_declared(const Op *op, Bytes key) {
    for (int i = 0; i < op->nkeys; i++) {
        if (is_same(op->keys[i], key)) return 1;
    }
    return op->run->routing.data && is_same(hash_tag(op->run->routing), hash_tag(key));
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

static void set_text(Reply *reply, int type, const char *text, size_t size) {
    reply->type = type;
    reply->size = size;
    reply->text = RedisModule_Alloc(size + 1);
    memcpy(reply->text, text, size);
    reply->text[size] = '\0';
}

Reply *calls_error_reply(const char *text) {
    Reply *reply = RedisModule_Calloc(1, sizeof(*reply));
    set_text(reply, REPLY_ERROR, text, strlen(text));
    return reply;
}

static void convert(Reply *reply, RedisModuleCallReply *from) {
    size_t size;
    int type = RedisModule_CallReplyType(from);
    switch (type) {
    case REDISMODULE_REPLY_STRING:
    case REDISMODULE_REPLY_ERROR: {
        const char *text = RedisModule_CallReplyStringPtr(from, &size);
        set_text(reply, type == REDISMODULE_REPLY_ERROR ? REPLY_ERROR : REPLY_STRING, text, size);
        break;
    }
    case REDISMODULE_REPLY_INTEGER:
        reply->type = REPLY_INTEGER;
        reply->integer = RedisModule_CallReplyInteger(from);
        break;
    case REDISMODULE_REPLY_ARRAY:
        reply->type = REPLY_ARRAY;
        reply->count = (int64_t)RedisModule_CallReplyLength(from);
        reply->items = reply->count ? RedisModule_Calloc(reply->count, sizeof(Reply)) : NULL;
        for (int64_t i = 0; i < reply->count; i++) {
            convert(&reply->items[i], RedisModule_CallReplyArrayElement(from, i));
        }
        break;
    default: reply->type = REPLY_NULL; /* commands answer in RESP2 here, without other types: doubles are strings */
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

static int has_word(const Bytes *words, int count, const char *text) {
    for (int i = 1; i < count; i++) {
        if (word_is(&words[i], text)) return 1;
    }
    return 0;
}

/* They would return at once without data, unnoticed. Redis 7.0 refuses most of them itself, newer servers none. */
static int is_blocking(const Bytes *words, int count) {
    static const char *const names[] = {"BLPOP",    "BRPOP",    "BRPOPLPUSH", "BLMOVE", "BLMPOP",
                                        "BZPOPMIN", "BZPOPMAX", "BZMPOP",     "WAIT",   "WAITAOF"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (word_is(&words[0], names[i])) return 1;
    }
    if (!word_is(&words[0], "XREAD") && !word_is(&words[0], "XREADGROUP")) return 0;
    for (int i = 1; i < count && !word_is(&words[i], "STREAMS"); i++) {
        if (word_is(&words[i], "BLOCK")) return 1;
    }
    return 0;
}

/* These commands touch keys that the server does not know of: all, those that a pattern of SORT describes, or those
 * that FROM of AI.TENSORSET reads. */
static int touches_unnamed_keys(const Bytes *words, int count) {
    const Bytes *name = &words[0];
    if (word_is(name, "FLUSHALL") || word_is(name, "FLUSHDB") || word_is(name, "SWAPDB")) return 1;
    if (word_is(name, "AI.TENSORSET")) return has_word(words, count, "FROM");
    if (!word_is(name, "SORT") && !word_is(name, "SORT_RO")) return 0;
    return has_word(words, count, "BY") || has_word(words, count, "GET");
}

/* The first key of the command that is not declared, or -1. */
static int undeclared_key(RedisModuleCtx *ctx, const Op *op, RedisModuleString **argv, int count) {
    int keys, found = -1;
    int *positions = RedisModule_GetCommandKeys(ctx, argv, count, &keys);
    if (positions == NULL) return -1; /* no keys, or an unknown command, which the call itself reports */
    for (int i = 0; i < keys && found == -1; i++) {
        size_t size;
        const char *key = RedisModule_StringPtrLen(argv[positions[i]], &size);
        if (!is_declared(op, (Bytes){.data = key, .size = size})) found = positions[i];
    }
    RedisModule_Free(positions);
    return found;
}

static Reply *call_redis(RedisModuleCtx *ctx, const ScriptCall *call, RedisModuleString **argv) {
    const Bytes *words = call->words;
    int count = call->count;
    /* RedisModule_Call reads the name up to the first NUL. The checks below must see the same name. */
    if (strlen(words[0].data) != words[0].size) {
        char text[160];
        snprintf(text, sizeof(text), "ERR unknown command '%.128s'", words[0].data);
        return calls_error_reply(text);
    }
    if (is_blocking(words, count)) return calls_error_reply("ERR a blocking command cannot be used in a script");
    if (touches_unnamed_keys(words, count) || undeclared_key(ctx, call->op, argv, count) != -1) {
        return calls_error_reply("ERR the script touches a key that was not declared with KEYS");
    }
    /* !: replicate; C: as the context's user; E: errors as replies; M: no writes when out of memory; S: as in Lua. */
    RedisModuleCallReply *answer = RedisModule_Call(ctx, words[0].data, "!CEMSv", argv + 1, (size_t)count - 1);
    if (answer == NULL) return calls_error_reply("ERR the command cannot be run from a script");
    for (int i = 0; i < count; i++) event_loop_note_written(words[i].size);
    Reply *reply = RedisModule_Calloc(1, sizeof(*reply));
    convert(reply, answer);
    RedisModule_FreeCallReply(answer);
    return reply;
}

static void call_command(RedisModuleCtx *ctx, ScriptCall *call) {
    RedisModuleString **argv = RedisModule_Alloc(call->count * sizeof(*argv));
    for (int i = 0; i < call->count; i++) {
        argv[i] = RedisModule_CreateString(NULL, call->words[i].data, call->words[i].size);
    }
    call->reply = call_redis(ctx, call, argv);
    for (int i = 0; i < call->count; i++) RedisModule_FreeString(NULL, argv[i]);
    RedisModule_Free(argv);
}

Reply *bridge_call(Op *op, const Bytes *words, int count) {
    if (count == 0) return calls_error_reply("ERR no command given");
    if (elsewhere) return elsewhere->call(op, words, count);
    LocalCall local = {.call = {.op = op, .words = words, .count = count}};
    ask(&local);
    return local.call.error ? calls_error_reply(local.call.error) : local.call.reply;
}

/* ---- redisAI.model_execute --------------------------------------------------------------------------------------- */

/* Takes a reference to the model at the key, or sets the error. */
static void find_model(RedisModuleCtx *ctx, RedisModuleUser *user, ScriptCall *call) {
    if (!is_declared(call->op, call->key)) {
        call->error = "ERR the script runs a model whose key was not declared with KEYS";
        return;
    }
    RedisModuleString *name = RedisModule_CreateString(NULL, call->key.data, call->key.size);
    call->error = "ERR model key is empty";
    if (RedisModule_ACLCheckKeyPermissions(user, name, REDISMODULE_CMD_KEY_ACCESS) == REDISMODULE_ERR) {
        call->error = "NOPERM this user has no permissions to access the model's key";
    } else {
        RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
        if (key && RedisModule_KeyType(key) != REDISMODULE_KEYTYPE_EMPTY) {
            int is_model = RedisModule_ModuleTypeGetType(key) == ModelType;
            call->error = is_model ? NULL : REDISMODULE_ERRORMSG_WRONGTYPE;
            if (is_model) call->model = (Model *)runnable_ref(RedisModule_ModuleTypeGetValue(key));
        }
        if (key) RedisModule_CloseKey(key);
    }
    RedisModule_FreeString(NULL, name);
}

/* Waits for the loader. Returns an error, which the caller frees, or NULL. */
static char *await_ready(Model *model) {
    if (runnable_is_ready(&model->base)) return NULL;
    LoaderJob *job = job_new(JOB_LOAD, runnable_ref(&model->base));
    job_post_and_wait(job);
    char *error = job->error ? RedisModule_Strdup(job->error) : NULL;
    job_free(job);
    return error;
}

Model *bridge_hold_model(Op *op, Bytes key, char **error) {
    if (elsewhere) return elsewhere->hold_model(op, key, error);
    LocalCall local = {.call = {.op = op, .key = key}};
    ask(&local);
    Model *model = local.call.model;
    *error = local.call.error ? RedisModule_Strdup(local.call.error) : await_ready(model);
    if (*error == NULL) return model;
    if (model) runnable_unref(&model->base);
    return NULL;
}

void bridge_release_model(Model *model, int64_t duration, int64_t samples, int failed, int is_direct) {
    if (elsewhere) elsewhere->release_model(model, duration, samples, failed, is_direct);
    if (duration >= 0) {
        stats_count(
            &model->base.state->stats,
            &(Execution){
                .duration = duration, .queued = -1, .samples = samples, .is_direct = is_direct, .failed = failed});
    }
    runnable_unref(&model->base);
}
