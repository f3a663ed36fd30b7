/* script.c - AI.SCRIPTSTORE, AI.SCRIPTSET, AI.SCRIPTGET, AI.SCRIPTDEL, AI._SCRIPTSCAN. Main thread only. */
#include <string.h>

#include "commands/commands.h"
#include "commands/stored.h"
#include "redis/command.h"
#include "values/names.h"
#include "values/script.h"

#define NO_ENTRY_POINTS "Insufficient arguments, missing script entry points"

/* `ENTRY_POINTS count function ...` at *at; -1 after replying an error. */
static int parse_entry_points(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int *at, Names *names) {
    long long count;
    if (*at + 1 >= argc || !arg_is(argv[*at], "ENTRY_POINTS")) return parse_error(ctx, NO_ENTRY_POINTS);
    if (arg_whole(argv[*at + 1], &count) == -1 || count < 0) {
        return parse_error(ctx, "Non numeric entry points number provided to AI.SCRIPTSTORE command");
    }
    *at += 2;
    if (count > argc - *at) return parse_error(ctx, NO_ENTRY_POINTS);
    for (long long i = 0; i < count; i++) names_append(names, arg_copy(argv[(*at)++], NULL));
    return 0;
}

/* Parses `device [TAG tag] [ENTRY_POINTS ...] SOURCE source ...`; -1 after replying an error. */
static int parse_script(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int counted, Script *script) {
    size_t size;
    if (!device_is_valid(arg_text(argv[0]))) return parse_error(ctx, "unsupported device");
    script->base.device = arg_copy(argv[0], NULL);

    int at = 1;
    if (at + 1 < argc && arg_is(argv[at], "TAG")) {
        script->base.tag = arg_copy(argv[at + 1], &script->base.tag_size);
        at += 2;
    } else {
        script->base.tag = RedisModule_Strdup("");
    }
    if (counted && parse_entry_points(ctx, argv, argc, &at, &script->entry_points) == -1) return -1;
    if (at + 1 >= argc || !arg_is(argv[at], "SOURCE")) {
        return parse_error(ctx, "Insufficient arguments, missing script SOURCE");
    }
    const char *source = RedisModule_StringPtrLen(argv[at + 1], &size);
    if (memchr(source, '\0', size) && wait_mode(ctx) != WAIT_NOT) { /* deployed servers cut it there */
        return parse_error(ctx, "script SOURCE contains null character");
    }
    script->source = arg_copy(argv[at + 1], NULL);
    return 0;
}

static int store(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int counted) {
    if (!counted && argc == 6) return reply_wrong_arity(ctx, argv);
    if (!key_accepts(ctx, argv[1], ScriptType)) return log_lost_value(ctx, argv);
    Script *script = script_new();
    if (parse_script(ctx, argv + 2, argc - 2, counted, script) == -1) {
        runnable_unref(&script->base);
        return log_lost_value(ctx, argv);
    }
    return store_runnable(ctx, argv, argc, &script->base);
}

COMMAND_AS(scriptstore, store(ctx, argv, argc, 1), .name = "AI.SCRIPTSTORE", .flags = "write deny-oom", .arity = -8,
           .since = "1.2.0", .keys = {{"key", KEY_WRITE}},
           .syntax = "key device [TAG tag] ENTRY_POINTS count function [function ...] SOURCE source",
           .summary = "Stores a TorchScript; the server goes on while it is compiled",
           .complexity = "O(1), and compiling it");

COMMAND_AS(scriptset, store(ctx, argv, argc, 0), .name = "AI.SCRIPTSET", .flags = "write deny-oom", .arity = -5,
           .most_words = 7, .keys = {{"key", KEY_WRITE}}, .syntax = "key device [TAG tag] SOURCE source",
           .summary = "Stores a TorchScript (deprecated: use AI.SCRIPTSTORE)", .complexity = "O(1), and compiling it");

static int scriptget_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Script *script = find_runnable(ctx, argv[1], KIND_SCRIPT);
    int meta, source;
    if (script == NULL || parse_reply_words(ctx, argv + 2, argc - 2, "SOURCE", &meta, &source, NULL) == -1)
        return REDISMODULE_OK;

    if (meta) {
        RedisModule_ReplyWithArray(ctx, source ? 8 : 6);
        reply_text(ctx, "device", script->base.device);
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

COMMAND(scriptget, .name = "AI.SCRIPTGET", .flags = "readonly", .arity = -2, .most_words = 4,
        .keys = {{"key", KEY_READ}}, .syntax = "key [META] [SOURCE]",
        .summary = "Returns a script's metadata and source", .complexity = "O(N) where N is the size of the source");

COMMAND_AS(scriptdel, delete_runnable(ctx, argv, KIND_SCRIPT), .name = "AI.SCRIPTDEL", .flags = "write", .arity = 2,
           .keys = {{"key", KEY_DELETE}}, .syntax = "key", .summary = "Deletes a script");

COMMAND_AS(scriptscan, scan_runnables(ctx, ScriptType), .name = "AI._SCRIPTSCAN", .flags = "readonly", .arity = 1,
           .summary = "Returns the keys and tags of all scripts", .complexity = "O(N) where N is the number of keys");

const Command *const script_commands[] = {&scriptstore, &scriptset, &scriptget, &scriptdel, &scriptscan, NULL};
