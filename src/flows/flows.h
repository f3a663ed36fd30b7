/* flows.h - flows: Python programs of users that run on events, in a process of their own (RG.PYEXECUTE).
 *
 * What they mean is known to that process alone, which is a client of this server (the Python package flows). Here is
 * what the main thread must do. commands.c passes users' commands on, control.c serves the process, messages.c has
 * what waits for it and who waits for its answers, events.c has what it watches, registry.c keeps its data, process.c
 * starts and ends it, atomic.c serves blocks of commands. Main thread only, but for the thread that watches over the
 * process, and the BGSAVE child, which saves. */
#pragma once

#include "redis/command_table.h"
#include "redis/event_loop.h"

int flows_init(RedisModuleCtx *ctx); /* at load */

/* ---- messages.c -------------------------------------------------------------------------------------------------- */

/* A string of one's own: keys of events, and words of commands, are the server's. */
RedisModuleString *flows_copy(const RedisModuleString *string);

/* Blocks the client and passes its command on. kind: "command" or "hook". */
int messages_pass(RedisModuleCtx *ctx, const char *kind, RedisModuleString **argv, int argc);

void messages_add_event(int db, const char *event, const RedisModuleString *key);
void messages_add_stream(int db, const RedisModuleString *key); /* unless it waits already */

void messages_miss_streams(void); /* any may have changed */

/* Whether some wait or are worked on, and the process has not asked for any since the last call. */
int messages_are_stuck(void);

/* What the process asks for: the messages, and to answer request argv[2] by the tokens that follow. */
int messages_next(RedisModuleCtx *ctx);
int messages_reply(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);

/* Nobody will take the messages: drops them, and answers all who wait with this error. */
void messages_fail(const char *error);

typedef struct MessageFigures {
    int64_t requests, events, dropped;
} MessageFigures;
MessageFigures messages_figures(void);

/* ---- events.c ---------------------------------------------------------------------------------------------------- */

/* Replace the lists by what follows the verb: [kind db name match events]..., and [command keyprefix]... */
int events_watch(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
int events_hook(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
void events_forget(void); /* both lists */

/* ---- registry.c -------------------------------------------------------------------------------------------------- */

int registry_init(RedisModuleCtx *ctx);
int64_t registry_count(void);
void registry_set(const RedisModuleString *id, const RedisModuleString *payload); /* NULL: removes it */
int registry_reply(RedisModuleCtx *ctx);                                          /* all of it: id, payload, ... */

/* ---- process.c --------------------------------------------------------------------------------------------------- */

int flow_process_init(RedisModuleCtx *ctx);
void flow_process_ask(void);              /* a command needs the process */
void flow_process_consider(int is_other); /* starts or ends it, as role and data ask for. is_other: they have changed */
void flow_process_note_connected(void);   /* it has shown its secret */
int flow_process_has_secret(const RedisModuleString *secret);
void flow_process_end(const char *why);     /* it has broken a rule */
int flow_process_acts(RedisModuleCtx *ctx); /* whether flows run on this server: a master that has its data */
void flow_process_report(RedisModuleInfoCtx *ctx);

/* ---- control.c --------------------------------------------------------------------------------------------------- */

int control_init(RedisModuleCtx *ctx);
int control_is_own(RedisModuleCtx *ctx); /* the client is a connection of the process */
void control_close_all(void);            /* its connections */

/* Runs a command as the user of this connection. NULL: it cannot be run; *error tells why. */
RedisModuleCallReply *control_call(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const char **error);

/* ---- commands.c, atomic.c ---------------------------------------------------------------------------------------- */

int flow_commands_init(RedisModuleCtx *ctx);

/* In MULTI, Lua or another module's call nobody can wait. Replies an error and returns 0 there. */
int flows_may_wait(RedisModuleCtx *ctx, RedisModuleString **argv);

void atomic_open(int socket); /* of a new process, whose other end it has */
void atomic_close(void);
int atomic_run(RedisModuleCtx *ctx, RedisModuleString **argv);
