/* control.c - what the flow process asks of the server, on connections that it has shown its secret on (flows.h). Main
 * thread.
 *
 * RG._PROCESS may be sent before AUTH, and while a script is busy: it writes nothing. RG._FLOW writes the registry.
 * RG._CALL, RG._ATOMIC and RG._HOOKED may write, so the server holds them back while writes are paused. */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "engine/options.h"
#include "flows/flows.h"

/* A connection of the process. */
typedef struct Connection {
    uint64_t client;
    int is_control; /* else it is a user's */
    struct Connection *next;
} Connection;

static Connection *connections;

static Connection **find(uint64_t client) {
    Connection **at = &connections;
    while (*at && (*at)->client != client) at = &(*at)->next;
    return at;
}

/* It has disconnected, or has become another user by AUTH or RESET. */
static void user_changed(uint64_t client, void *unused) {
    Connection **at = find(client), *connection = *at;
    if (connection == NULL) return;
    *at = connection->next;
    RedisModule_Free(connection);
}

static void add(uint64_t client, int is_control) {
    user_changed(client, NULL);
    Connection *connection = RedisModule_Alloc(sizeof(*connection));
    *connection = (Connection){.client = client, .is_control = is_control, .next = connections};
    connections = connection;
}

int control_is_own(RedisModuleCtx *ctx) { return *find(RedisModule_GetClientId(ctx)) != NULL; }

static int is_control(RedisModuleCtx *ctx) {
    const Connection *connection = *find(RedisModule_GetClientId(ctx));
    return connection && connection->is_control;
}

void control_close_all(void) {
    while (connections) {
        uint64_t client = connections->client;
        user_changed(client, NULL);
        RedisModule_DeauthenticateAndCloseClient(log_context, client);
    }
}

/* ---- RG._PROCESS ------------------------------------------------------------------------------------------------- */

/* A user whom only modules know, with all rights. */
static RedisModuleUser *own_user(void) {
    static RedisModuleUser *user;
    static const char *const rules[] = {"on", "allcommands", "allkeys", "allchannels"};
    if (user) return user;
    user = RedisModule_CreateModuleUser("flows");
    for (int i = 0; i < 4; i++) RedisModule_SetModuleUserACL(user, rules[i]);
    return user;
}

static int connect_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    uint64_t client = RedisModule_GetClientId(ctx);
    if (RedisModule_AuthenticateClientWithUser(ctx, own_user(), user_changed, NULL, NULL) != REDISMODULE_OK) {
        return reply_error(ctx, "this connection cannot be the flow process's");
    }
    add(client, 1);
    flow_process_note_connected();
    return reply_ok(ctx);
}

static int user_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    size_t size;
    const char *name = RedisModule_StringPtrLen(argv[3], &size);
    if (RedisModule_AuthenticateClientWithACLUser(ctx, name, size, user_changed, NULL, NULL) != REDISMODULE_OK) {
        return reply_error(ctx, "there is no user '%s', or it is off", name);
    }
    add(RedisModule_GetClientId(ctx), 0);
    return reply_ok(ctx);
}

static int log_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    static const char *const levels[] = {"debug", "verbose", "notice", "warning"};
    const char *level = "notice";
    for (int i = 0; argc == 4 && i < 4; i++) {
        if (arg_is(argv[2], levels[i])) level = levels[i];
    }
    if (argc != 4) return reply_error(ctx, "LOG level text is needed");
    char *line = arg_copy(argv[3], NULL);
    for (char *at = line; *at; at++) *at = (unsigned char)*at < ' ' ? ' ' : *at; /* a user may have written it */
    RedisModule_Log(log_context, level, "flows: %.1000s", line);
    RedisModule_Free(line);
    return reply_ok(ctx);
}

static int shows_secret(RedisModuleString **argv, int argc) {
    int is_one = (arg_is(argv[1], "CONNECT") && argc == 3) || (arg_is(argv[1], "USER") && argc == 4);
    return is_one && flow_process_has_secret(argv[2]);
}

static int refuse(RedisModuleCtx *ctx) {
    if (!flows_option()) return reply_error(ctx, "flows are off: load the module with FLOWS yes");
    return RedisModule_ReplyWithError(ctx, "NOPERM this command is for the flow process");
}

static int process_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    int has_secret = shows_secret(argv, argc);
    if (!has_secret && !is_control(ctx)) return refuse(ctx);
    if (!flows_may_wait(ctx, argv)) return REDISMODULE_OK;
    if (has_secret) return argc == 3 ? connect_command(ctx, argv, argc) : user_command(ctx, argv, argc);
    if (arg_is(argv[1], "NEXT")) return messages_next(ctx);
    if (arg_is(argv[1], "REPLY")) return messages_reply(ctx, argv, argc);
    if (arg_is(argv[1], "LOAD")) return registry_reply(ctx);
    if (arg_is(argv[1], "LOG")) return log_command(ctx, argv, argc);
    if (arg_is(argv[1], "WATCH")) return events_watch(ctx, argv + 2, argc - 2);
    if (arg_is(argv[1], "HOOKS")) return events_hook(ctx, argv + 2, argc - 2);
    return reply_error(ctx, "RG._PROCESS has no such verb, or the secret is wrong: '%s'", arg_text(argv[1]));
}

/* ---- RG._FLOW ---------------------------------------------------------------------------------------------------- */

static int flow_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (wait_mode(ctx) != WAIT_NOT && !is_control(ctx)) return refuse(ctx);
    registry_set(argv[1], argc > 2 ? argv[2] : NULL);
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

/* ---- RG._CALL, RG._HOOKED ---------------------------------------------------------------------------------------- */

RedisModuleCallReply *control_call(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const char **error) {
    RedisModuleUser *user; /* for each call: the one before may have removed it */
    *error = "NOPERM this connection is no user's, or the user is gone";
    if (!find_user(ctx, &user) || user == NULL) return NULL;
    RedisModule_SetContextUser(ctx, user);
    /* !: replicate; C: as the context's user; E: errors as replies; M: no writes when out of memory; S: as in Lua;
     * 0: in the client's protocol. */
    RedisModuleCallReply *reply = RedisModule_Call(ctx, arg_text(argv[0]), "!CEMS0v", argv + 1, (size_t)argc - 1);
    RedisModule_SetContextUser(ctx, NULL);
    RedisModule_FreeModuleUser(user);
    if (reply == NULL) *error = errno == ENOENT ? "ERR unknown command" : "ERR the command cannot be run from a flow";
    return reply;
}

static int call_and_reply(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const char *error;
    RedisModuleCallReply *reply = control_call(ctx, argv, argc, &error);
    if (reply == NULL) return RedisModule_ReplyWithError(ctx, error);
    RedisModule_ReplyWithCallReply(ctx, reply);
    RedisModule_FreeCallReply(reply);
    return REDISMODULE_OK;
}

static int call_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return control_is_own(ctx) ? call_and_reply(ctx, argv + 1, argc - 1) : refuse(ctx);
}

/* What is within commands of flows is none: they would call each other for each word. */
static int is_of_flows(const RedisModuleString *command) { return strncasecmp(arg_text(command), "rg.", 3) == 0; }

static void report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    int count = 0, *flags = NULL;
    if (is_of_flows(argv[1])) return;
    int *keys = RedisModule_GetCommandKeysWithFlags(ctx, argv + 1, argc - 1, &count, &flags);
    for (int i = 0; keys && i < count; i++) RedisModule_KeyAtPosWithFlags(ctx, keys[i] + 1, flags[i]);
    if (keys) RedisModule_Free(keys);
    if (keys) RedisModule_Free(flags);
}

/* The check of rights looks at words that must be there. */
static int has_its_words(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    int count;
    errno = 0;
    int *keys = RedisModule_GetCommandKeys(ctx, argv, argc, &count);
    if (keys) RedisModule_Free(keys);
    return keys || (errno != EINVAL && errno != ENOENT);
}

static int may_run(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    RedisModuleUser *user;
    if (!find_user(ctx, &user) || user == NULL) return 0;
    int may = RedisModule_ACLCheckCommandPermissions(user, argv, argc) == REDISMODULE_OK;
    RedisModule_FreeModuleUser(user);
    return may;
}

/* A client's command that a flow takes over (events.c). Where nobody can wait, and for flows, it runs as it is. */
static int hooked_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (RedisModule_IsKeysPositionRequest(ctx)) {
        report_keys(ctx, argv, argc);
        return REDISMODULE_OK;
    }
    if (wait_mode(ctx) == WAIT_NOT || !flows_option() || is_of_flows(argv[1])) return refuse(ctx);
    if (!has_its_words(ctx, argv + 1, argc - 1)) return call_and_reply(ctx, argv + 1, argc - 1); /* which fails */
    if (!may_run(ctx, argv + 1, argc - 1)) {
        return RedisModule_ReplyWithError(ctx,
                                          "NOPERM this user has no permissions to run the command, or for its keys");
    }
    if (wait_mode(ctx) == WAIT_MAIN_THREAD || control_is_own(ctx) || !flow_process_acts(ctx)) {
        return call_and_reply(ctx, argv + 1, argc - 1);
    }
    return messages_pass(ctx, "hook", argv + 1, argc - 1);
}

#define INTERNAL "For the flow process alone"

/* Others must not see the secret. */
COMMAND(process, .name = "RG._PROCESS", .flags = "no-auth allow-busy deny-script no-monitor no-slowlog", .arity = -2,
        .since = "2.0.0", .tips = "nondeterministic_output", .syntax = "verb [argument [argument ...]]",
        .summary = INTERNAL);
COMMAND(flow, .name = "RG._FLOW", .flags = "write", .arity = -2, .most_words = 3, .since = "2.0.0",
        .tips = "nondeterministic_output", .syntax = "id [payload]",
        .summary = "Tells replicas and the AOF what the flow process has saved");
COMMAND(call, .name = "RG._CALL", .flags = "no-auth may-replicate deny-script", .arity = -2, .since = "2.0.0",
        .tips = "nondeterministic_output", .syntax = "command [argument [argument ...]]", .summary = INTERNAL);
COMMAND(hooked, .name = "RG._HOOKED", .flags = "may-replicate getkeys-api", .arity = -2, .since = "2.0.0",
        .tips = "nondeterministic_output", .syntax = "command [argument [argument ...]]",
        .summary = "Runs a command that a flow has taken over");
COMMAND_AS(atomic, control_is_own(ctx) ? atomic_run(ctx, argv) : refuse(ctx), .name = "RG._ATOMIC",
           .flags = "no-auth may-replicate deny-script", .arity = 2, .most_words = 2, .since = "2.0.0",
           .tips = "nondeterministic_output", .syntax = "number", .summary = INTERNAL);

static const Command *const commands[] = {&process, &flow, &call, &hooked, &atomic, NULL};

int control_init(RedisModuleCtx *ctx) { return command_table_register(ctx, commands, ""); }
