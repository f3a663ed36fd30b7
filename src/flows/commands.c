/* commands.c - the commands of flows for users: they are passed on to the flow process (flows.h). Main thread. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "commands/commands.h"
#include "engine/options.h"
#include "flows/flows.h"

int flows_may_wait(RedisModuleCtx *ctx, RedisModuleString **argv) {
    if (wait_mode(ctx) == WAIT_BLOCK) return 1;
    reply_error(ctx, "%s cannot be called in MULTI, from Lua or by a module: the flow process answers it",
                arg_text(argv[0]));
    return 0;
}

static int pass(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const char *name, int is_for_all) {
    if (!flows_option()) return reply_error(ctx, "flows are off: load the module with FLOWS yes");
    if (!flows_may_wait(ctx, argv)) return REDISMODULE_OK;
    if (!(RedisModule_GetContextFlags(ctx) & REDISMODULE_CTX_FLAGS_MASTER)) {
        return RedisModule_ReplyWithError(ctx, "READONLY flows run on the master, and this is a replica");
    }
    if (!is_for_all && !is_administrator(ctx)) {
        char error[128];
        snprintf(error, sizeof(error), "NOPERM %s needs a user who may run CONFIG SET", name);
        return RedisModule_ReplyWithError(ctx, error);
    }
    RedisModuleString *typed = argv[0];
    argv[0] = RedisModule_CreateString(NULL, name, strlen(name));
    messages_pass(ctx, "command", argv, argc);
    RedisModule_FreeString(NULL, argv[0]);
    argv[0] = typed;
    return REDISMODULE_OK;
}

#define PASS(id, words, ...)                                                                                           \
    COMMAND_AS(id, pass(ctx, argv, argc, words, 0), .name = words, .since = "2.0.0",                                   \
               .tips = "nondeterministic_output", __VA_ARGS__)
#define EXECUTION .arity = 2, .most_words = 2, .syntax = "id"

PASS(pyexecute, "RG.PYEXECUTE", .flags = "admin deny-oom", .arity = -2,
     .syntax = "code [UNBLOCKING] [ID id] [DESCRIPTION description] [UPGRADE] [REPLACE_WITH id] "
               "[FORCE_REINSTALLATION] [REQUIREMENTS requirement [requirement ...]]",
     .summary = "Runs Python code, which may register flows", .complexity = "Depends on the code");
PASS(dumpregistrations, "RG.DUMPREGISTRATIONS", .flags = "admin", .arity = 1, .most_words = 1,
     .summary = "Lists the registered flows", .complexity = "O(N) where N is the number of flows");
PASS(unregister, "RG.UNREGISTER", .flags = "admin", EXECUTION, .summary = "Ends a registered flow");
PASS(getexecution, "RG.GETEXECUTION", .flags = "admin", .arity = -2, .most_words = 3,
     .syntax = "id [where: SHARD | CLUSTER]", .summary = "Tells how far an execution is");
PASS(dumpexecutions, "RG.DUMPEXECUTIONS", .flags = "admin", .arity = 1, .most_words = 1,
     .summary = "Lists the latest executions", .complexity = "O(N) where N is the number of executions");
PASS(abortexecution, "RG.ABORTEXECUTION", .flags = "admin", EXECUTION, .summary = "Ends an execution that runs");
PASS(dropexecution, "RG.DROPEXECUTION", .flags = "admin", EXECUTION, .summary = "Forgets an execution");
PASS(getresults, "RG.GETRESULTS", .flags = "admin", EXECUTION, .summary = "Returns what an execution gave");
PASS(getresultsblocking, "RG.GETRESULTSBLOCKING", .flags = "admin", EXECUTION,
     .summary = "Waits for an execution and returns what it gave");
PASS(pydumpreqs, "RG.PYDUMPREQS", .flags = "admin", .arity = 1, .most_words = 1,
     .summary = "Lists the Python packages that flows required");
PASS(pydumpsessions, "RG.PYDUMPSESSIONS", .flags = "admin", .arity = 1, .most_words = 1,
     .summary = "Lists the programs that RG.PYEXECUTE has run");
PASS(pystats, "RG.PYSTATS", .flags = "admin", .arity = 1, .most_words = 1,
     .summary = "Returns the memory of the flow process");
PASS(infocluster, "RG.INFOCLUSTER", .flags = "admin", .arity = 1, .most_words = 1,
     .summary = "Tells of the nodes as far as flows know them");
PASS(refreshcluster, "RG.REFRESHCLUSTER", .flags = "admin", .arity = 1, .most_words = 1,
     .summary = "Does nothing: flows run on each node by itself");
COMMAND_AS(trigger, pass(ctx, argv, argc, "RG.TRIGGER", 1), .name = "RG.TRIGGER", .flags = "", .arity = -2,
           .since = "2.0.0", .tips = "nondeterministic_output", .syntax = "trigger [argument [argument ...]]",
           .summary = "Runs the flow that is registered for a trigger", .complexity = "Depends on the flow");

static const Command *const commands[] = {
    &pyexecute,      &trigger,    &dumpregistrations,  &unregister, &getexecution,   &dumpexecutions, &abortexecution,
    &dropexecution,  &getresults, &getresultsblocking, &pydumpreqs, &pydumpsessions, &pystats,        &infocluster,
    &refreshcluster, NULL};

/* Another module may have them: then only the number of words is wrong. */
int flow_commands_init(RedisModuleCtx *ctx) {
    if (RedisModule_Call(ctx, "RG.PYEXECUTE", "") == NULL && errno == ENOENT)
        return command_table_register(ctx, commands, "");
    if (flows_option()) return log_refusal(ctx, "FLOWS yes: another module has the commands RG.* already");
    RedisModule_Log(ctx, "notice", "another module has the commands RG.*; flows are off");
    return REDISMODULE_OK;
}

int flows_init(RedisModuleCtx *ctx) {
    info_set_more(flow_process_report);
    return flow_process_init(ctx) || registry_init(ctx) || flow_commands_init(ctx) || control_init(ctx);
}
