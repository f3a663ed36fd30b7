/* kill.c - AI.KILL: ends what runs or compiles a model or script now. Main thread only. */
#include "commands/commands.h"
#include "commands/stored.h"
#include "engine/options.h"
#include "isolation/isolation.h"
#include "redis/command.h"

static int kill_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc != 2) return reply_wrong_arity(ctx, argv);
    if (!is_administrator(ctx)) {
        return RedisModule_ReplyWithError(ctx, "NOPERM AI.KILL needs a user who may run CONFIG SET");
    }
    if (!is_isolated()) return reply_error(ctx, "AI.KILL needs the module to be loaded with ISOLATION process");
    uint64_t id = runnable_id_at(ctx, argv[1]);
    int killed = id ? isolation_kill(id) : 0;
    if (killed == 0) killed = kill_stores(ctx, argv[1], isolation_kill);
    if (killed < 0) return reply_error(ctx, "another AI.KILL ends the process of this device just now; try again");
    if (killed) return reply_ok(ctx);
    if (id == 0) return reply_error(ctx, "no model or script at this key");
    return RedisModule_ReplyWithError(ctx, "NOTBUSY Nothing runs this model or script right now.");
}

COMMAND(kill, .name = "AI.KILL", .flags = "admin readonly", .arity = 2, .since = "2.0.0", .keys = {{"key", KEY_READ}},
        .syntax = "key", .summary = "Ends what runs or compiles a model or script now",
        .complexity = "O(N) where N is the number of clients that wait for runs or stores");

const Command *const kill_commands[] = {&kill, NULL};
