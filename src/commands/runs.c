/* runs.c - AI.RUNS: the runs that wait or are under way, by the clients that wait for them. Main thread only.
 *
 * 100,000 clients may wait, so it goes over them in slices, and copies what it finds: a run may end meanwhile. */
#include <string.h>

#include "commands/commands.h"
#include "commands/slices.h"
#include "commands/stored.h"
#include "redis/clock.h"
#include "redis/command.h"
#include "run/run.h"
#include "values/model.h"

typedef struct Listed {
    uint64_t id, client;
    char key[RUNNABLE_NAME];
    char device[QUEUE_NAME];
    char *function; /* ours; NULL: a model */
    const char *state;
    int64_t age; /* us */
    int priority;
} Listed;

typedef struct Listing {
    Slices slices; /* first */
    uint64_t only; /* the id of a model or script; 0: any */
    int at;        /* of the table of waiters */
    Listed *listed;
    size_t count;
} Listing;

static void add_op(Listing *listing, const Run *run, const Op *op) {
    if ((listing->count & (listing->count - 1)) == 0) {
        size_t room = listing->count ? listing->count * 2 : 1;
        listing->listed = RedisModule_Realloc(listing->listed, room * sizeof(Listed));
    }
    Listed *listed = &listing->listed[listing->count++];
    *listed =
        (Listed){.id = run->id, .client = run->waiter.client, .state = op_state_name(op), .priority = op->priority};
    runnable_key(op->runnable, listed->key);
    bridge_queue_name(op->runnable->device, listed->device);
    if (op->function) listed->function = RedisModule_Strdup(op->function);
    listed->age = (monotonic_ns() - op->arrival) / 1000;
}

static void list_run(void *data, Waiter *waiter) {
    Listing *listing = data;
    const Run *run = run_of(waiter);
    if (run == NULL || !run_is_waiting(run)) return;
    for (const Op *op = run->ops; op < run->ops + run->nops; op++) {
        if (op_state_name(op) && (listing->only == 0 || op->id == listing->only)) add_op(listing, run, op);
    }
}

static int list_some(Slices *slices) {
    Listing *listing = (Listing *)slices;
    listing->at = waiter_visit(listing->at, list_run, listing);
    return listing->at != 0;
}

static void reply_listed(RedisModuleCtx *ctx, Slices *slices) {
    const Listing *listing = (const Listing *)slices;
    RedisModule_ReplyWithArray(ctx, (long)listing->count);
    for (size_t i = 0; i < listing->count; i++) {
        const Listed *listed = &listing->listed[i];
        RedisModule_ReplyWithArray(ctx, 16);
        reply_number(ctx, "id", (int64_t)listed->id);
        reply_number(ctx, "client", (int64_t)listed->client);
        reply_text(ctx, "key", listed->key);
        reply_text(ctx, "function", listed->function ? listed->function : "");
        reply_text(ctx, "device", listed->device);
        reply_text(ctx, "state", listed->state);
        reply_number(ctx, "age_us", listed->age);
        reply_text(ctx, "priority", priority_name(listed->priority));
    }
}

static void free_listing(Slices *slices) {
    Listing *listing = (Listing *)slices;
    for (size_t i = 0; i < listing->count; i++) RedisModule_Free(listing->listed[i].function);
    RedisModule_Free(listing->listed);
    RedisModule_Free(listing);
}

static int runs_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (!is_administrator(ctx)) {
        return RedisModule_ReplyWithError(ctx, "NOPERM AI.RUNS needs a user who may run CONFIG SET");
    }
    uint64_t only = argc == 2 ? runnable_id_at(ctx, argv[1]) : 0;
    if (argc == 2 && only == 0) return reply_error(ctx, "no model or script at this key");
    Listing *listing = RedisModule_Calloc(1, sizeof(*listing));
    listing->slices = (Slices){.step = list_some, .reply = reply_listed, .freed = free_listing};
    listing->only = only;
    return do_in_slices(ctx, &listing->slices);
}

COMMAND(runs, .name = "AI.RUNS", .flags = "admin readonly", .arity = -1, .most_words = 2, .since = "2.0.0",
        .keys = {{"key", KEY_READ}}, .syntax = "[key]", .summary = "Lists the runs that wait or are under way",
        .tips = "nondeterministic_output", .complexity = "O(N) where N is the number of clients that wait for runs");

const Command *const runs_commands[] = {&runs, NULL};
