/* commands/script.c - AI.SCRIPTSTORE, AI.SCRIPTSET, AI.SCRIPTGET, AI.SCRIPTDEL, AI._SCRIPTSCAN. Main thread only. */
#include <string.h>

#include "commands/commands.h"
#include "commands/compile.h"
#include "redis/command.h"
#include "values/device.h"
#include "values/names.h"
#include "values/script.h"

/* `ENTRY_POINTS <count> <name>...` at *at. -1 after replying an error. */
static int parse_entry_points(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int *at, Names *names) {
    long long count;
    if (*at + 1 >= argc || !arg_is(argv[*at], "ENTRY_POINTS")) {
        return reply_error(ctx, "Insufficient arguments, missing script entry points"), -1;
    }
    if (RedisModule_StringToLongLong(argv[*at + 1], &count) == REDISMODULE_ERR || count <= 0) {
        return reply_error(ctx, "Non numeric entry points number provided to AI.SCRIPTSTORE command"), -1;
    }
    *at += 2;
    if (count > argc - *at) return reply_error(ctx, "Insufficient arguments, missing script SOURCE"), -1;
    for (long long i = 0; i < count; i++) names_append(names, arg_copy(argv[(*at)++]));
    return 0;
}

/* Parses `<device> [TAG tag] [ENTRY_POINTS ...] SOURCE <source>`. -1 after replying an error. */
static int parse_script(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int counted, Script *script) {
    size_t size;
    const char *device = RedisModule_StringPtrLen(argv[0], &size);
    if (!device_is_valid(device, size)) return reply_error(ctx, "Invalid DEVICE"), -1;
    script->base.device = arg_copy(argv[0]);

    int at = 1;
    if (at + 1 < argc && arg_is(argv[at], "TAG")) {
        RedisModule_StringPtrLen(argv[at + 1], &size);
        script->base.tag = arg_copy(argv[at + 1]);
        script->base.tag_size = size;
        at += 2;
    } else {
        script->base.tag = RedisModule_Strdup("");
    }
    if (counted && parse_entry_points(ctx, argv, argc, &at, &script->entry_points) == -1) return -1;
    if (at + 1 >= argc || !arg_is(argv[at], "SOURCE")) {
        return reply_error(ctx, "Insufficient arguments, missing script SOURCE"), -1;
    }
    if (at + 2 < argc) return reply_error(ctx, "a single argument should come after SOURCE"), -1;
    const char *source = RedisModule_StringPtrLen(argv[at + 1], &size);
    if (memchr(source, '\0', size)) return reply_error(ctx, "script SOURCE contains null character"), -1;
    script->source = arg_copy(argv[at + 1]);
    return 0;
}

static int store(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int counted) {
    if (argc < 3) return reply_wrong_arity(ctx, argv);
    if (!key_accepts(ctx, argv[1], ScriptType)) {
        reply_wrong_type(ctx);
        return refuse_to_store(ctx, argv);
    }
    Script *script = script_new();
    if (parse_script(ctx, argv + 2, argc - 2, counted, script) == -1) {
        runnable_unref(&script->base);
        return refuse_to_store(ctx, argv);
    }
    return store_runnable(ctx, argv, &script->base);
}

static int scriptstore_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return store(ctx, argv, argc, 1);
}

static int scriptset_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return store(ctx, argv, argc, 0);
}

static int scriptget_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc < 2) return reply_wrong_arity(ctx, argv);
    int replied;
    Script *script = lookup_value(ctx, argv[1], ScriptType, &replied);
    if (replied) return REDISMODULE_OK;
    if (script == NULL) return reply_error(ctx, "script key is empty");

    int meta = 0, source = 0;
    for (int i = 2; i < argc; i++) {
        if (arg_is(argv[i], "META")) {
            meta = 1;
        } else if (arg_is(argv[i], "SOURCE")) {
            source = 1;
        } else {
            return reply_error(ctx, "Invalid argument: %s", RedisModule_StringPtrLen(argv[i], NULL));
        }
    }
    if (!meta && !source) meta = source = 1;

    if (meta) {
        RedisModule_ReplyWithArray(ctx, source ? 8 : 6);
        RedisModule_ReplyWithCString(ctx, "device");
        RedisModule_ReplyWithCString(ctx, script->base.device);
        RedisModule_ReplyWithCString(ctx, "tag");
        RedisModule_ReplyWithStringBuffer(ctx, script->base.tag, script->base.tag_size);
        RedisModule_ReplyWithCString(ctx, "Entry Points");
        RedisModule_ReplyWithArray(ctx, script->entry_points.count);
        for (int64_t i = 0; i < script->entry_points.count; i++) {
            RedisModule_ReplyWithCString(ctx, script->entry_points.names[i]);
        }
        if (source) RedisModule_ReplyWithCString(ctx, "source");
    }
    if (source) RedisModule_ReplyWithCString(ctx, script->source);
    return REDISMODULE_OK;
}

static int scriptdel_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc != 2) return reply_wrong_arity(ctx, argv);
    return delete_runnable(ctx, argv, ScriptType, "script key is empty");
}

static int scriptscan_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return argc == 1 ? scan_runnables(ctx, ScriptType) : reply_wrong_arity(ctx, argv);
}

int script_commands_register(RedisModuleCtx *ctx) {
    if (RedisModule_CreateCommand(ctx, "AI.SCRIPTSTORE", scriptstore_command, "write deny-oom", 1, 1, 1) ||
        RedisModule_CreateCommand(ctx, "AI.SCRIPTSET", scriptset_command, "write deny-oom", 1, 1, 1) ||
        RedisModule_CreateCommand(ctx, "AI.SCRIPTGET", scriptget_command, "readonly", 1, 1, 1) ||
        RedisModule_CreateCommand(ctx, "AI.SCRIPTDEL", scriptdel_command, "write", 1, 1, 1) ||
        RedisModule_CreateCommand(ctx, "AI._SCRIPTSCAN", scriptscan_command, "readonly", 0, 0, 0)) {
        return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
