/* commands.c - AI.BIND, AI.UNBIND, AI.BINDLIST, AI.BINDINFO, AI.BINDRUN (bindings.h). Main thread only. */
#include <stdio.h>
#include <string.h>

#include "bindings/bindings.h"
#include "redis/clock.h"
#include "redis/command.h"
#include "values/model.h"
#include "values/script.h"

/* ---- AI.BIND ----------------------------------------------------------------------------------------------------- */

/* A pattern that lets this name pass lets all pass that begin with the prefix. */
static int may_use_prefix(RedisModuleUser *user, const RedisModuleString *prefix, int access) {
    static const char unlikely[] = ":6Zt0qkWJx2:Vb81cQm";
    size_t size;
    const char *text = RedisModule_StringPtrLen(prefix, &size);
    char *name = RedisModule_Alloc(size + sizeof(unlikely));
    memcpy(name, text, size);
    memcpy(name + size, unlikely, sizeof(unlikely));
    RedisModuleString *key = RedisModule_CreateString(NULL, name, size + sizeof(unlikely) - 1);
    int may = RedisModule_ACLCheckKeyPermissions(user, key, access) == REDISMODULE_OK;
    RedisModule_FreeString(NULL, key);
    RedisModule_Free(name);
    return may;
}

static const RedisModuleString *forbidden_key(const Binding *b, RedisModuleUser *user) {
    int update = REDISMODULE_CMD_KEY_UPDATE, access = REDISMODULE_CMD_KEY_ACCESS;
    RedisModuleString *targets[] = {b->vector_set, b->stream};
    for (int i = 0; i < b->nprefixes; i++) {
        int may = b->is_exact
                      ? RedisModule_ACLCheckKeyPermissions(user, b->prefixes[i], access | update) == REDISMODULE_OK
                      : may_use_prefix(user, b->prefixes[i], access | update);
        if (!may) return b->prefixes[i];
    }
    for (int i = 0; i < 2; i++) {
        if (targets[i] && RedisModule_ACLCheckKeyPermissions(user, targets[i], update) != REDISMODULE_OK) {
            return targets[i];
        }
    }
    return RedisModule_ACLCheckKeyPermissions(user, b->runnable, access) == REDISMODULE_OK ? NULL : b->runnable;
}

static int is_prefix(const Binding *b, const RedisModuleString *key) {
    for (int i = 0; i < b->nprefixes; i++) {
        if (key == b->prefixes[i]) return !b->is_exact;
    }
    return 0;
}

static int check_rights(RedisModuleCtx *ctx, const Binding *b) {
    RedisModuleUser *user;
    if (!find_user(ctx, &user)) return 0; /* a module calls */
    const RedisModuleString *key = user ? forbidden_key(b, user) : b->runnable;
    if (user) RedisModule_FreeModuleUser(user);
    if (key == NULL) return 0;
    char error[320];
    snprintf(error, sizeof(error), "NOPERM AI.BIND needs the right to %s %s '%s'",
             key == b->runnable ? "read" : "read and change",
             is_prefix(b, key) ? "all keys that begin with" : "the key", arg_text(key));
    RedisModule_ReplyWithError(ctx, error);
    return -1;
}

/* The caller's name. From the AOF or a master, USER and the name are the last words. */
static RedisModuleString *take_user(RedisModuleCtx *ctx, RedisModuleString **argv, int *argc) {
    RedisModuleUser *user;
    RedisModuleString *name = NULL;
    if (wait_mode(ctx) == WAIT_NOT && *argc > 3 && arg_is(argv[*argc - 2], "USER")) {
        *argc -= 2;
        return RedisModule_HoldString(NULL, argv[*argc + 1]);
    }
    if (find_user(ctx, &user)) name = RedisModule_GetCurrentUserName(ctx);
    if (user) RedisModule_FreeModuleUser(user);
    return name ? name : RedisModule_CreateString(NULL, "default", 7); /* a module calls */
}

static int check_model(RedisModuleCtx *ctx, const Binding *b) {
    RedisModuleType *type = b->kind == KIND_MODEL ? ModelType : ScriptType;
    return lookup_value(ctx, b->runnable, type, b->kind == KIND_MODEL ? "model key is empty" : "script key is empty")
               ? 0
               : -1;
}

static int bind_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    int is_obeyed = wait_mode(ctx) == WAIT_NOT;
    if (!bindings_are_saved()) {
        return reply_error(ctx, "this server's RDB files with bindings would load only where the module is; "
                                "load the module with BINDINGS yes, or use Redis 7.2 or later, or Valkey");
    }
    if (!is_obeyed && bindings_find(argv[1])) {
        return reply_error(ctx, "there is a binding '%s' already; AI.UNBIND removes it", arg_text(argv[1]));
    }
    RedisModuleString *user = take_user(ctx, argv, &argc);
    Binding *b = binding_parse(ctx, argv + 1, argc - 1, RedisModule_GetSelectedDb(ctx), user);
    int failed = b == NULL || (!is_obeyed && (check_model(ctx, b) == -1 || check_rights(ctx, b) == -1));
    if (failed && b) binding_unref(b);
    if (!failed) {
        Binding *old = bindings_find(argv[1]);
        if (old) bindings_remove(old);
        bindings_add(b);
        pending_watch(ctx, b);
        RedisModule_Replicate(ctx, "AI.BIND", "vcs", argv + 1, (size_t)argc - 1, "USER", user);
        reply_ok(ctx);
    }
    RedisModule_FreeString(NULL, user);
    return failed ? log_lost_value(ctx, argv) : REDISMODULE_OK;
}

/* ---- the other commands ------------------------------------------------------------------------------------------ */

static Binding *find(RedisModuleCtx *ctx, RedisModuleString *name) {
    Binding *b = bindings_find(name);
    if (b == NULL) reply_error(ctx, "there is no binding '%s'", arg_text(name));
    return b;
}

static int unbind_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Binding *b = find(ctx, argv[1]);
    if (b == NULL) return REDISMODULE_OK;
    bindings_remove(b);
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

static int bindrun_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Binding *b = find(ctx, argv[1]);
    if (b == NULL) return REDISMODULE_OK;
    if (b->cursor) RedisModule_ScanCursorDestroy(b->cursor); /* it begins anew */
    b->cursor = NULL;
    b->is_filling = 1;
    RedisModule_ReplicateVerbatim(ctx);
    work_wake();
    return reply_ok(ctx);
}

static int bindlist_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    long count = 0;
    RedisModule_ReplyWithArray(ctx, REDISMODULE_POSTPONED_LEN);
    for (const Binding *b = bindings_first(); b; b = b->next, count++) RedisModule_ReplyWithString(ctx, b->name);
    RedisModule_ReplySetArrayLength(ctx, count);
    return REDISMODULE_OK;
}

/* The oldest change that has no result. */
static int64_t oldest(const Binding *b) {
    int64_t since = b->first ? b->first->since : INT64_MAX;
    for (int i = 0; i < MAX_UNDER_WAY; i++) {
        for (int j = 0; b->batches[i] && j < b->batches[i]->npending; j++) {
            if (b->batches[i]->pending[j]->since < since) since = b->batches[i]->pending[j]->since;
        }
    }
    return since;
}

static void reply_string(RedisModuleCtx *ctx, const char *field, RedisModuleString *text) {
    RedisModule_ReplyWithCString(ctx, field);
    if (text) RedisModule_ReplyWithString(ctx, text);
    if (text == NULL) RedisModule_ReplyWithCString(ctx, "");
}

static int bindinfo_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const Binding *b = find(ctx, argv[1]);
    if (b == NULL) return REDISMODULE_OK;
    RedisModule_ReplyWithArray(ctx, 2 * 13);
    reply_string(ctx, "name", b->name);
    RedisModule_ReplyWithCString(ctx, "definition");
    RedisModule_ReplyWithArray(ctx, b->nwords - 1);
    for (int i = 1; i < b->nwords; i++) RedisModule_ReplyWithString(ctx, b->words[i]);
    reply_number(ctx, "db", b->db);
    reply_string(ctx, "user", b->user);
    reply_number(ctx, "pending", b->npending);
    reply_number(ctx, "lag_ms", b->npending ? (monotonic_ns() - oldest(b)) / 1000000 : 0);
    reply_number(ctx, "runs", b->runs);
    reply_number(ctx, "results", b->rows);
    reply_number(ctx, "errors", b->errors);
    reply_text(ctx, "last_error", b->last_error ? b->last_error : "");
    reply_string(ctx, "last_error_key", b->last_error_key);
    reply_number(ctx, "bindrun_keys", b->filled);
    reply_number(ctx, "bindrun_of", b->is_filling ? b->to_fill : 0);
    return REDISMODULE_OK;
}

/* What a master tells its replicas, and the AOF: these keys have their newest result. */
static int bound_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (wait_mode(ctx) != WAIT_NOT) return reply_error(ctx, "AI._BOUND is for masters and the AOF");
    Binding *b = bindings_find(argv[1]);
    if (b && argc == 2) b->is_filling = 0;
    for (int i = 2; b && i < argc; i++) {
        Pending *pending = pending_find(b, argv[i]);
        if (pending == NULL || pending->is_running) continue;
        pending_take(b, pending);
        pending_free(b, pending);
    }
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

#define SOURCES "source: HASH PREFIX | HASH KEYS | STREAM PREFIX | STREAM KEYS"
#define ON_ALL "request_policy:all_shards response_policy:all_succeeded"

COMMAND(bind, .name = "AI.BIND", .flags = "write deny-oom", .arity = -12, .since = "2.0.0", .tips = ON_ALL,
        .syntax = "name ON source name_count name [name ...] FIELDS field_count field [field ...] [AS type] [dimension "
                  "[dimension ...]] "
                  "[DEFAULT value] [runnable: MODEL key | SCRIPT script function] [SET set_count output [output ...]] "
                  "[VECTORSET vectors] [STREAM stream] [MAXLEN max] [VERSION version] [ERROR error]",
        .summary = "Runs a model or script whenever keys change, and sets what it gives",
        .complexity = "O(N) where N is the number of prefixes of all bindings");
COMMAND(unbind, .name = "AI.UNBIND", .flags = "write", .arity = 2, .most_words = 2, .since = "2.0.0", .tips = ON_ALL,
        .syntax = "name", .summary = "Ends a binding",
        .complexity = "O(N) where N is the number of prefixes of all bindings");
COMMAND(bindlist, .name = "AI.BINDLIST", .flags = "readonly", .arity = 1, .most_words = 1, .since = "2.0.0",
        .tips = "nondeterministic_output_order", .summary = "Lists the names of the bindings",
        .complexity = "O(N) where N is the number of bindings");
COMMAND(bindinfo, .name = "AI.BINDINFO", .flags = "readonly", .arity = 2, .most_words = 2, .since = "2.0.0",
        .tips = "nondeterministic_output request_policy:all_shards response_policy:special", .syntax = "name",
        .summary = "Tells what a binding does, and how far it is");
COMMAND(bindrun, .name = "AI.BINDRUN", .flags = "write", .arity = 2, .most_words = 2, .since = "2.0.0", .tips = ON_ALL,
        .syntax = "name", .summary = "Has a binding run for all keys that exist, in the background");
COMMAND(bound, .name = "AI._BOUND", .flags = "write", .arity = -2, .since = "2.0.0", .tips = ON_ALL,
        .syntax = "name [key [key ...]]", .summary = "Tells replicas and the AOF which keys a binding has done",
        .complexity = "O(N) where N is the number of keys");

static const Command *const commands[] = {&bind, &unbind, &bindlist, &bindinfo, &bindrun, &bound, NULL};

int bindings_init(RedisModuleCtx *ctx) {
    return work_init(ctx) || saved_init(ctx) || command_table_register(ctx, commands, SOURCES);
}
