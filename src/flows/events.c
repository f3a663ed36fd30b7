/* events.c - which changes of keys the flow process is told of, and whose commands it takes over (flows.h). Main
 * thread.
 *
 * The server is asked for events, and commands pass a filter, only once the process has named some. */
#include <string.h>
#include <strings.h>

#include "flows/flows.h"

#define EVENTS                                                                                                         \
    (REDISMODULE_NOTIFY_GENERIC | REDISMODULE_NOTIFY_STRING | REDISMODULE_NOTIFY_LIST | REDISMODULE_NOTIFY_SET |       \
     REDISMODULE_NOTIFY_HASH | REDISMODULE_NOTIFY_ZSET | REDISMODULE_NOTIFY_EXPIRED | REDISMODULE_NOTIFY_EVICTED |     \
     REDISMODULE_NOTIFY_STREAM | REDISMODULE_NOTIFY_MODULE)

typedef struct Watch {
    int is_stream, is_exact;
    int db;
    char *name, *events; /* NUL-terminated copies */
    uint64_t name_size;
} Watch;

typedef struct Hook {
    char *command, *prefix;
    uint64_t prefix_size;
} Hook;

static Watch *watches;
static int nwatches;
static Hook *hooks;
static int nhooks;
static RedisModuleCommandFilter *filter; /* NULL: there are no hooks */
static RedisModuleCtx *context;

/* ---- watches ----------------------------------------------------------------------------------------------------- */

/* Whether the word is in a list with commas between its words. */
static int is_among(const char *list, const char *word) {
    size_t size = strlen(word);
    for (const char *at = list; *at; at += at[0] == ',') {
        size_t length = strcspn(at, ",");
        if (length == size && strncasecmp(at, word, size) == 0) return 1;
        at += length;
    }
    return 0;
}

static int concerns(const Watch *watch, int db, int type, const char *event, const char *name, size_t size) {
    if (watch->db != db || size < watch->name_size || (watch->is_exact && size != watch->name_size)) return 0;
    if (memcmp(name, watch->name, watch->name_size) != 0 || (*watch->events && !is_among(watch->events, event))) {
        return 0;
    }
    if (!watch->is_stream) return 1;
    if (type == REDISMODULE_NOTIFY_STREAM) return strcmp(event, "xadd") == 0;
    return type == REDISMODULE_NOTIFY_GENERIC && is_among("rename_to,restore,copy_to,move_to", event);
}

static int key_changed(RedisModuleCtx *ctx, int type, const char *event, RedisModuleString *key) {
    if (nwatches == 0) return REDISMODULE_OK;
    size_t size;
    const char *name = RedisModule_StringPtrLen(key, &size);
    int db = RedisModule_GetSelectedDb(ctx), found[2] = {0, 0}; /* of keys, of streams */
    for (const Watch *watch = watches; watch < watches + nwatches; watch++) {
        if (!found[watch->is_stream]) found[watch->is_stream] = concerns(watch, db, type, event, name, size);
    }
    if ((!found[0] && !found[1]) || !flow_process_acts(ctx)) return REDISMODULE_OK;
    if (found[0]) messages_add_event(db, event, key);
    if (found[1]) messages_add_stream(db, key);
    return REDISMODULE_OK;
}

static void forget_watches(void) {
    for (int i = 0; i < nwatches; i++) {
        RedisModule_Free(watches[i].name);
        RedisModule_Free(watches[i].events);
    }
    RedisModule_Free(watches);
    watches = NULL;
    nwatches = 0;
}

static int watch_is_right(RedisModuleString **words) {
    long long db;
    return (arg_is(words[0], "keys") || arg_is(words[0], "stream")) &&
           RedisModule_StringToLongLong(words[1], &db) == REDISMODULE_OK && db >= 0 && db <= INT32_MAX &&
           (arg_is(words[3], "exact") || arg_is(words[3], "prefix"));
}

int events_watch(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    static int is_subscribed;
    int is_right = argc % 5 == 0;
    for (int i = 0; i < argc && is_right; i += 5) is_right = watch_is_right(argv + i);
    if (!is_right) return reply_error(ctx, "WATCH [keys|stream db name exact|prefix events]... is needed");
    forget_watches();
    nwatches = argc / 5;
    watches = RedisModule_Calloc(nwatches + 1, sizeof(*watches));
    for (int i = 0; i < nwatches; i++, argv += 5) {
        long long db;
        RedisModule_StringToLongLong(argv[1], &db);
        watches[i] =
            (Watch){.is_stream = arg_is(argv[0], "stream"), .db = (int)db, .is_exact = arg_is(argv[3], "exact")};
        watches[i].name = arg_copy(argv[2], &watches[i].name_size);
        watches[i].events = arg_copy(argv[4], NULL);
    }
    if (nwatches && !is_subscribed) RedisModule_SubscribeToKeyspaceEvents(ctx, EVENTS, key_changed);
    is_subscribed |= nwatches > 0;
    return reply_ok(ctx);
}

/* ---- hooks ------------------------------------------------------------------------------------------------------- */

static int is_hooked(RedisModuleCommandFilterCtx *command) {
    const RedisModuleString *name = RedisModule_CommandFilterArgGet(command, 0);
    int words = RedisModule_CommandFilterArgsCount(command);
    for (const Hook *hook = hooks; hook < hooks + nhooks; hook++) {
        if (!arg_is(name, hook->command)) continue;
        if (hook->prefix_size == 0) return 1;
        size_t size = 0;
        const char *key = words > 1 ? RedisModule_StringPtrLen(RedisModule_CommandFilterArgGet(command, 1), &size) : "";
        if (size >= hook->prefix_size && memcmp(key, hook->prefix, hook->prefix_size) == 0) return 1;
    }
    return 0;
}

static void filter_command(RedisModuleCommandFilterCtx *command) {
    if (!is_hooked(command)) return;
    RedisModule_CommandFilterArgInsert(command, 0, RedisModule_CreateString(NULL, "RG._HOOKED", 10));
}

static void forget_hooks(void) {
    for (int i = 0; i < nhooks; i++) {
        RedisModule_Free(hooks[i].command);
        RedisModule_Free(hooks[i].prefix);
    }
    RedisModule_Free(hooks);
    hooks = NULL;
    nhooks = 0;
    if (filter) RedisModule_UnregisterCommandFilter(context, filter);
    filter = NULL;
}

static int has_noscript(RedisModuleCallReply *command) {
    RedisModuleCallReply *flags = command ? RedisModule_CallReplyArrayElement(command, 2) : NULL;
    size_t count = flags ? RedisModule_CallReplyLength(flags) : 0, size;
    for (size_t i = 0; i < count; i++) {
        const char *flag = RedisModule_CallReplyStringPtr(RedisModule_CallReplyArrayElement(flags, i), &size);
        if (flag && size == 8 && memcmp(flag, "noscript", 8) == 0) return 1;
    }
    return 0;
}

/* Those cannot be called from flows either: in place of a hooked one, in MULTI, nothing could run. */
static int is_kept_from_scripts(const RedisModuleString *command) {
    RedisModuleCallReply *reply = RedisModule_Call(log_context, "COMMAND", "cs", "INFO", command);
    RedisModuleCallReply *found = reply ? RedisModule_CallReplyArrayElement(reply, 0) : NULL;
    RedisModuleCallReply *parts = found ? RedisModule_CallReplyArrayElement(found, 9) : NULL;
    int is_kept = has_noscript(found);
    for (size_t i = 0; parts && i < RedisModule_CallReplyLength(parts); i++) {
        is_kept |= has_noscript(RedisModule_CallReplyArrayElement(parts, i));
    }
    if (reply) RedisModule_FreeCallReply(reply);
    return is_kept;
}

/* Commands of connections and transactions mean nothing where they do not run at once; ours are for the process. */
static int may_be_hooked(const RedisModuleString *command) {
    static const char *const never[] = {"auth", "hello",  "multi",  "exec",     "discard", "watch", "unwatch", "reset",
                                        "quit", "client", "select", "replconf", "psync",   "sync",  NULL};
    for (int i = 0; never[i]; i++) {
        if (arg_is(command, never[i])) return 0;
    }
    const char *text = arg_text(command);
    return *text && strncasecmp(text, "rg.", 3) != 0 && !is_kept_from_scripts(command);
}

int events_hook(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc % 2) return reply_error(ctx, "HOOKS [command keyprefix]... is needed");
    for (int i = 0; i < argc; i += 2) {
        if (!may_be_hooked(argv[i])) return reply_error(ctx, "the command '%s' cannot be hooked", arg_text(argv[i]));
    }
    forget_hooks();
    nhooks = argc / 2;
    hooks = RedisModule_Calloc(nhooks + 1, sizeof(*hooks));
    for (int i = 0; i < nhooks; i++) {
        hooks[i].command = arg_copy(argv[2 * i], NULL);
        hooks[i].prefix = arg_copy(argv[2 * i + 1], &hooks[i].prefix_size);
    }
    context = log_context;
    if (nhooks) filter = RedisModule_RegisterCommandFilter(context, filter_command, REDISMODULE_CMDFILTER_NOSELF);
    return reply_ok(ctx);
}

void events_forget(void) {
    forget_watches();
    forget_hooks();
}
