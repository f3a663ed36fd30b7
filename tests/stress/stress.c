/* stress.c - queues, runs, batches and replies of the module under load, without Redis and Python.
 *
 * The module's own sources, with redis.c in the place of Redis and workers.c in the place of Python. 64 clients send
 * random commands on models and scripts of four devices, each client one after another: single runs, and DAGs with
 * names defined again, LOAD, PERSIST and TIMEOUT. Some ops fail, some clients disconnect, models are stored again while
 * they run and are not compiled yet when the next run comes. Every reply is compared with what the DAG means; each
 * client gets exactly one; in the end nothing is left in memory. Anything else ends the program with a message.
 *
 *     stress <seconds> [seed] [threads a queue]
 *
 * The main thread does everything here. The seed decides what is sent, not how the threads take turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bridge.h"
#include "workers.h"
#include "redis.h"

#define CLIENTS 64
#define DEVICES 4
#define KEPT 400               /* allocations that engine processes may keep for the next ops */
#define PATIENCE 20000000000LL /* ns without a reply: it is lost */

#define MOST_COMMANDS 14
#define MOST_INPUTS 3
#define MOST_OUTPUTS 2
#define NAMES 8     /* of a DAG's tensors; */
#define LOADED 0    /* this one is the key that is loaded, */
#define PERSISTED 1 /* and this one is stored */
#define MOST_SLOTS 64

/* ---- models and scripts ------------------------------------------------------------------------------------------ */

typedef enum { PLAIN, BATCHED, TIMED, HANGING, SLOW, SCRIPT, KINDS } Kind;

static const char *const batching[KINDS] = {
    [BATCHED] = "BATCHSIZE 8",
    [TIMED] = "BATCHSIZE 8 MINBATCHSIZE 5 MINBATCHTIMEOUT 3",
    [HANGING] = "BATCHSIZE 8 MINBATCHSIZE 6", /* only for runs with TIMEOUT */
};

#define RUNNABLES (DEVICES * KINDS)

static Kind kind_of(int runnable) { return runnable % KINDS; }

static int number_of(int runnable) { return 100 * (runnable + 1); }

static void store_runnable(Client *client, int runnable, int flags) {
    int device = runnable / KINDS;
    Kind kind = kind_of(runnable);
    client_word(client, kind == SCRIPT ? "AI.SCRIPTSTORE" : "AI.MODELSTORE");
    client_word(client, "run%d", runnable);
    if (kind != SCRIPT) client_word(client, "ONNX");
    if (device == 0) {
        client_word(client, "CPU");
    } else {
        client_word(client, "CPU:%d", device);
    }
    char words[64];
    snprintf(words, sizeof(words), "%s",
             kind == SCRIPT   ? "ENTRY_POINTS 1 f SOURCE"
             : batching[kind] ? batching[kind]
                              : "");
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) client_word(client, "%s", word);
    if (kind != SCRIPT) client_word(client, "BLOB");
    int cost = kind == SLOW ? 1000000 : (int[]){0, 50, 400}[runnable % 3], failing = device % 2 ? 15 : 0;
    client_word(client, ENGINE_BLOB, number_of(runnable), cost, failing);
    client_call(client, flags);
}

/* ---- what is sent ------------------------------------------------------------------------------------------------ */

/* Element i of a tensor is base + step * i, and sums of such tensors are such tensors. */
typedef struct Value {
    int64_t base, step;
    int64_t rows, columns;
} Value;

typedef enum { SET, GET, RUN } CommandKind;

typedef struct DagCommand {
    CommandKind kind;
    int runnable;
    int ninputs, noutputs;
    int inputs[MOST_INPUTS]; /* slots */
    int outputs[MOST_OUTPUTS];
    int whole; /* GET: META too */
} DagCommand;

typedef struct Dag {
    DagCommand commands[MOST_COMMANDS];
    int ncommands;
    Value slots[MOST_SLOTS];
    int makers[MOST_SLOTS]; /* index of the command that makes it; -1: loaded */
    int nslots;
    int names[NAMES]; /* slot, -1: not defined (yet) */
    int loads, persists;
} Dag;

typedef enum { NOTHING, STORE, SINGLE, WHOLE_DAG, INFO } Request;

typedef struct Peer {
    int number;
    Client *client;
    Request request;
    Dag dag;          /* SINGLE: a DAG of one command */
    int64_t sent;     /* ns */
    int64_t timeout;  /* ns; 0: none */
    int64_t leaves;   /* ns, when it disconnects; 0: it does not */
    int64_t answered; /* ns */
    Value loaded;     /* at its key in<number> */
    Value persisted;  /* at its key out<number>; rows 0: nothing */
} Peer;

static Peer peers[CLIENTS];
static Random random_state;
#define BELOW(limit) ((int)below(&random_state, limit))
#define CHANCE(permille) chance(&random_state, permille)

static struct {
    long requests, dags, whole, failed, timed_out, left, stores, pauses;
} counts;

static void send_value(Client *client, const Value *value) {
    int64_t length = value->rows * value->columns;
    int64_t *numbers = malloc(length * sizeof(*numbers));
    for (int64_t i = 0; i < length; i++) numbers[i] = value->base + value->step * i;
    client_word(client, "INT64");
    client_word(client, "%lld", (long long)value->rows);
    client_word(client, "%lld", (long long)value->columns);
    client_word(client, "BLOB");
    client_bytes(client, numbers, length * sizeof(*numbers));
    free(numbers);
}

static void check_value(const void *data, size_t size, const Value *value) {
    int64_t length = value->rows * value->columns;
    CHECK(size == length * sizeof(int64_t));
    for (int64_t i = 0; i < length; i++) {
        int64_t number;
        memcpy(&number, (const char *)data + i * sizeof(number), sizeof(number));
        if (number != value->base + value->step * i) {
            FATAL("element %lld is %lld, not %lld", (long long)i, (long long)number,
                  (long long)(value->base + value->step * i));
        }
    }
}

/* Whether the value is the key's, as far as shape and first element tell. */
static int is_at_key(const char *key, const Value *value) {
    const Tensor *tensor = redis_value(key);
    if (value->rows == 0 || tensor == NULL) return value->rows == 0 && tensor == NULL;
    return tensor->ndim == 2 && tensor->shape[0] == value->rows && tensor->shape[1] == value->columns &&
           *(const int64_t *)tensor->data == value->base;
}

static void check_key(const char *key, const Value *value) {
    CHECK(is_at_key(key, value));
    if (value->rows == 0) return;
    const Tensor *tensor = redis_value(key);
    check_value(tensor->data, tensor->size, value);
}

static Value random_value(int64_t rows, int64_t columns) {
    return (Value){.base = BELOW(1000000), .step = BELOW(1000), .rows = rows, .columns = columns};
}

/* Some are so large that they stay in the string that brought them. */
static Value random_shape(void) {
    int is_large = CHANCE(4);
    return random_value(1 + BELOW(is_large ? 2 : CHANCE(100) ? 9 : 4), is_large ? 66000 : CHANCE(100) ? 8 : 4);
}

static int add_slot(Dag *dag, Value value, int maker) {
    CHECK(dag->nslots < MOST_SLOTS);
    dag->slots[dag->nslots] = value;
    dag->makers[dag->nslots] = maker;
    return dag->nslots++;
}

static int defined_name(const Dag *dag) {
    for (;;) {
        int name = BELOW(NAMES);
        if (dag->names[name] != -1) return name;
    }
}

static const char *name_text(const Peer *peer, int name) {
    static char text[32];
    const char *prefix = name == LOADED ? "in" : name == PERSISTED ? "out" : "name";
    snprintf(text, sizeof(text), "%s%d", prefix, name == LOADED || name == PERSISTED ? peer->number : name);
    return text;
}

/* Sends the words of a run from its inputs on, and adds what comes out. */
static void add_run(Peer *peer, DagCommand *command, const int *names) {
    Dag *dag = &peer->dag;
    Value sum = {.rows = peer->dag.slots[0].rows, .columns = peer->dag.slots[0].columns};
    client_word(peer->client, "INPUTS");
    client_word(peer->client, "%d", command->ninputs);
    for (int i = 0; i < command->ninputs; i++) {
        client_word(peer->client, "%s", name_text(peer, names[i]));
        command->inputs[i] = dag->names[names[i]];
        sum.base += dag->slots[command->inputs[i]].base;
        sum.step += dag->slots[command->inputs[i]].step;
    }
    sum.base += number_of(command->runnable);
    client_word(peer->client, "OUTPUTS");
    client_word(peer->client, "%d", command->noutputs);
    for (int k = 0; k < command->noutputs; k++) {
        int name = names[MOST_INPUTS + k];
        client_word(peer->client, "%s", name_text(peer, name));
        dag->names[name] = command->outputs[k] = add_slot(dag, sum, dag->ncommands);
        sum.base++;
    }
}

static void add_run_words(Peer *peer, int runnable) {
    client_word(peer->client, kind_of(runnable) == SCRIPT ? "AI.SCRIPTEXECUTE" : "AI.MODELEXECUTE");
    client_word(peer->client, "run%d", runnable);
    if (kind_of(runnable) == SCRIPT) client_word(peer->client, "f");
}

/* Models that hang are for runs that time out. Those of two devices are asked for more often, for fuller batches. */
static int random_runnable(const Peer *peer) {
    static const Kind kinds[] = {PLAIN, PLAIN, BATCHED, BATCHED, BATCHED, TIMED, TIMED, SCRIPT, SCRIPT};
    Kind kind = peer->timeout && CHANCE(300) ? HANGING : kinds[BELOW(9)];
    return BELOW(CHANCE(500) ? 2 : DEVICES) * KINDS + kind;
}

static void add_command(Peer *peer) {
    Dag *dag = &peer->dag;
    DagCommand *command = &dag->commands[dag->ncommands];
    *command = (DagCommand){0};
    int defined = 0;
    for (int name = 0; name < NAMES; name++) defined |= dag->names[name] != -1;
    int which = defined ? BELOW(10) : 0;
    client_word(peer->client, "|>");
    if (which < 2) {
        int name = 1 + BELOW(NAMES - 1);
        client_word(peer->client, "AI.TENSORSET");
        client_word(peer->client, "%s", name_text(peer, name));
        Value value = dag->nslots ? random_value(dag->slots[0].rows, dag->slots[0].columns) : random_shape();
        send_value(peer->client, &value);
        command->kind = SET;
        dag->names[name] = add_slot(dag, value, dag->ncommands);
    } else if (which < 4) {
        int name = defined_name(dag);
        client_word(peer->client, "AI.TENSORGET");
        client_word(peer->client, "%s", name_text(peer, name));
        command->kind = GET;
        command->inputs[0] = dag->names[name];
        command->whole = CHANCE(500);
        if (!command->whole) client_word(peer->client, "BLOB");
    } else {
        int names[MOST_INPUTS + MOST_OUTPUTS];
        command->kind = RUN;
        command->runnable = random_runnable(peer);
        command->ninputs = 1 + BELOW(MOST_INPUTS);
        command->noutputs = 1 + CHANCE(300);
        for (int i = 0; i < MOST_INPUTS; i++) names[i] = defined_name(dag);
        names[MOST_INPUTS] = 1 + BELOW(NAMES - 2);
        names[MOST_INPUTS + 1] = names[MOST_INPUTS] + 1;
        add_run_words(peer, command->runnable);
        add_run(peer, command, names);
    }
    dag->ncommands++;
}

static void begin_dag(Peer *peer, int loads) {
    peer->dag.ncommands = peer->dag.nslots = 0;
    for (int i = 0; i < NAMES; i++) peer->dag.names[i] = -1;
    peer->dag.loads = loads;
    peer->dag.persists = 0;
    if (loads) peer->dag.names[LOADED] = add_slot(&peer->dag, peer->loaded, -1);
}

static void send_options(Peer *peer) {
    static const char *const priorities[] = {"low", "normal", "high"};
    if (CHANCE(500)) {
        client_word(peer->client, "PRIORITY");
        client_word(peer->client, "%s", priorities[BELOW(3)]);
    }
    if (peer->timeout == 0) return;
    client_word(peer->client, "TIMEOUT");
    client_word(peer->client, "%lld", (long long)(peer->timeout / 1000000));
}

static void send_dag(Peer *peer) {
    int length = 1 + BELOW(MOST_COMMANDS - 1), loads = CHANCE(500), persists = CHANCE(500);
    client_word(peer->client, "AI.DAGEXECUTE");
    client_word(peer->client, "ROUTING");
    client_word(peer->client, "here");
    begin_dag(peer, loads);
    if (loads) {
        client_word(peer->client, "LOAD");
        client_word(peer->client, "1");
        client_word(peer->client, "%s", name_text(peer, LOADED));
    }
    if (persists) {
        client_word(peer->client, "PERSIST");
        client_word(peer->client, "1");
        client_word(peer->client, "%s", name_text(peer, PERSISTED));
    }
    send_options(peer);
    for (int i = 0; i < length; i++) add_command(peer);
    if (persists && peer->dag.names[PERSISTED] == -1) {
        /* The name has to be there, so one more command makes it. */
        DagCommand *command = &peer->dag.commands[peer->dag.ncommands];
        *command = (DagCommand){.kind = RUN, .runnable = random_runnable(peer), .ninputs = 1, .noutputs = 1};
        client_word(peer->client, "|>");
        add_run_words(peer, command->runnable);
        int names[] = {defined_name(&peer->dag), 0, 0, PERSISTED};
        add_run(peer, command, names);
        peer->dag.ncommands++;
    }
    peer->dag.persists = persists;
    peer->request = WHOLE_DAG;
    counts.dags++;
}

static void send_single(Peer *peer, int runnable) {
    begin_dag(peer, 1);
    DagCommand *command = &peer->dag.commands[0];
    *command = (DagCommand){.kind = RUN, .runnable = runnable, .ninputs = 1, .noutputs = 1};
    add_run_words(peer, command->runnable);
    int names[] = {LOADED, 0, 0, PERSISTED};
    add_run(peer, command, names);
    send_options(peer);
    peer->dag.ncommands = 1;
    peer->dag.persists = 1;
    peer->request = SINGLE;
    client_call(peer->client, 0);
}

/* A run that can only time out, of an op that gets to the batcher behind another: one a device, which nothing else
 * sweeps. */
static void send_hanging(Peer *peer) {
    Dag *dag = &peer->dag;
    peer->timeout = 30000000;
    begin_dag(peer, 0);
    client_word(peer->client, "AI.DAGEXECUTE");
    client_word(peer->client, "ROUTING");
    client_word(peer->client, "here");
    send_options(peer);
    client_word(peer->client, "|>");
    client_word(peer->client, "AI.TENSORSET");
    client_word(peer->client, "name2");
    Value value = random_value(1, 4);
    send_value(peer->client, &value);
    dag->names[2] = add_slot(dag, value, 0);
    dag->commands[dag->ncommands++] = (DagCommand){.kind = SET};
    for (int i = 0; i < 2; i++) {
        DagCommand *command = &dag->commands[dag->ncommands];
        *command = (DagCommand){
            .kind = RUN, .runnable = peer->number * KINDS + (i ? HANGING : SCRIPT), .ninputs = 1, .noutputs = 1};
        client_word(peer->client, "|>");
        add_run_words(peer, command->runnable);
        int names[] = {2, 0, 0, 2};
        add_run(peer, command, names);
        dag->ncommands++;
    }
    peer->request = WHOLE_DAG;
    client_call(peer->client, 0);
}

static void set_loaded(Peer *peer, Value value) {
    peer->loaded = value;
    client_word(peer->client, "AI.TENSORSET");
    client_word(peer->client, "%s", name_text(peer, LOADED));
    send_value(peer->client, &peer->loaded);
    client_call(peer->client, 0);
    int count;
    const Token *reply = client_reply(peer->client, &count);
    CHECK(reply && count == 1 && strcmp(reply->text, "OK") == 0);
}

static void send_request(Peer *peer) {
    peer->timeout = CHANCE(120) ? (1 + BELOW(10)) * 1000000LL : 0;
    peer->sent = now_ns();
    peer->leaves = CHANCE(30) ? peer->sent + BELOW(3000000) : 0;
    counts.requests++;
    if (CHANCE(4)) {
        /* From a master or a file it is there at once, and compiled later. */
        int at_once = CHANCE(700);
        peer->request = STORE;
        counts.stores++;
        store_runnable(peer->client, BELOW(RUNNABLES), at_once ? REDISMODULE_CTX_FLAGS_REPLICATED : 0);
        return;
    }
    if (CHANCE(10)) {
        client_word(peer->client, "AI.INFO");
        client_word(peer->client, "run%d", BELOW(RUNNABLES));
        client_word(peer->client, "FULL");
        peer->request = INFO;
        client_call(peer->client, 0);
        return;
    }
    if (CHANCE(50)) set_loaded(peer, random_shape());
    if (CHANCE(400)) {
        send_single(peer, random_runnable(peer));
        return;
    }
    send_dag(peer);
    client_call(peer->client, 0);
}

/* ---- what comes back --------------------------------------------------------------------------------------------- */

static int is_simple(const Token *token, const char *text) {
    return token->type == '+' && strcmp(token->text, text) == 0;
}

/* Reads the tensor that a TENSORGET gave and returns the token behind it. */
static const Token *check_get(const Token *token, const DagCommand *command, const Value *value) {
    if (command->whole) {
        CHECK(token[0].type == '*' && token[0].number == 6);
        CHECK(strcmp(token[2].text, "INT64") == 0 && token[4].type == '*' && token[4].number == 2);
        CHECK(token[5].number == value->rows && token[6].number == value->columns);
        token += 8;
    }
    CHECK(token->type == '$');
    check_value(token->text, token->size, value);
    return token + 1;
}

/* The rules are those of COMPATIBILITY.md: the first failed command, as written, divides the reply. */
static void check_dag(Peer *peer, const Token *token, int count) {
    Dag *dag = &peer->dag;
    const Token *end = token + count;
    int ran[MOST_COMMANDS], has_failed = 0;
    CHECK(token->type == '*' && token->number == dag->ncommands);
    token++;
    for (int i = 0; i < dag->ncommands; i++) {
        DagCommand *command = &dag->commands[i];
        int failed = token->type == '-', skipped = is_simple(token, "NA");
        int inputs_ran = 1;
        for (int k = 0; k < command->ninputs + (command->kind == GET); k++) {
            int maker = dag->makers[command->inputs[k]];
            inputs_ran &= maker == -1 || ran[maker];
        }
        ran[i] = 1;
        if (command->kind == RUN) {
            if (failed) CHECK(strcmp(token->text, ENGINE_ERROR) == 0);
            if (!failed && !skipped) CHECK(is_simple(token, "OK"));
            if (!inputs_ran) CHECK(skipped);
            ran[i] = !failed && !skipped;
            token++;
        } else if (command->kind == SET) {
            CHECK(is_simple(token, has_failed ? "NA" : "OK"));
            token++;
        } else if (has_failed || !inputs_ran) {
            CHECK(skipped);
            token++;
        } else {
            token = check_get(token, command, &dag->slots[command->inputs[0]]);
        }
        has_failed |= failed;
    }
    CHECK(token == end);
    for (int i = 0; i < dag->ncommands; i++) CHECK(ran[i] || has_failed);
    counts.whole += !has_failed;
    counts.failed += has_failed;
    if (dag->persists && !has_failed) peer->persisted = dag->slots[dag->names[PERSISTED]];
}

static void check_reply(Peer *peer, const Token *token, int count) {
    if (peer->request == STORE) {
        CHECK(count == 1 && is_simple(token, "OK"));
    } else if (peer->request == INFO) {
        CHECK(token->type == '*' && token->number > 18 && count >= token->number);
    } else if (is_simple(token, "TIMEDOUT")) {
        CHECK(count == 1 && peer->timeout && now_ns() - peer->sent >= peer->timeout);
        counts.timed_out++;
    } else if (peer->request == WHOLE_DAG) {
        check_dag(peer, token, count);
    } else {
        CHECK(count == 1 && (is_simple(token, "OK") || strcmp(token->text, ENGINE_ERROR) == 0));
        if (token->type == '+') peer->persisted = peer->dag.slots[peer->dag.names[PERSISTED]];
        counts.whole += token->type == '+';
        counts.failed += token->type == '-';
    }
    check_key(name_text(peer, PERSISTED), &peer->persisted);
}

/* The outputs may have been saved, without that the client has read the answer. */
static void leave(Peer *peer) {
    const Dag *dag = &peer->dag;
    client_close(peer->client);
    peer->client = client_new();
    int saves = peer->request == SINGLE || (peer->request == WHOLE_DAG && dag->persists);
    const Value *output = &dag->slots[saves ? dag->names[PERSISTED] : 0];
    if (saves && is_at_key(name_text(peer, PERSISTED), output)) peer->persisted = *output;
    check_key(name_text(peer, PERSISTED), &peer->persisted);
    peer->request = NOTHING;
    counts.left++;
}

/* Returns whether the peer has nothing to wait for. */
static int attend(Peer *peer, int64_t now) {
    int count;
    if (peer->request == NOTHING) return 1;
    const Token *reply = client_reply(peer->client, &count);
    if (reply) {
        check_reply(peer, reply, count);
        peer->request = NOTHING;
        peer->answered = now;
        return 1;
    }
    if (now - peer->sent > PATIENCE) FATAL("client %d got no reply to request %d", peer->number, (int)peer->request);
    if (peer->leaves && now >= peer->leaves) {
        leave(peer);
        return 1;
    }
    return 0;
}

/* ---- what happens when ------------------------------------------------------------------------------------------- */

static int attend_all(void) {
    int waiting = 0;
    int64_t now = now_ns();
    for (int i = 0; i < CLIENTS; i++) waiting += !attend(&peers[i], now);
    return waiting;
}

static void until_all_are_answered(void) {
    while (attend_all()) redis_turn(now_ns() + 300000);
}

/* Everybody sends. While writes are paused, Redis holds back the commands that write. */
static void crowd(int64_t end) {
    int64_t paused_until = 0, now;
    while ((now = now_ns()) < end || paused_until) {
        if (paused_until && now > paused_until) {
            redis_pause(0);
            paused_until = 0;
        } else if (paused_until == 0 && CHANCE(20)) {
            redis_pause(1);
            paused_until = now + 2000000 + BELOW(10000000);
            counts.pauses++;
        }
        for (int i = 0; i < CLIENTS; i++) {
            if (attend(&peers[i], now) && paused_until == 0 && !CHANCE(100)) send_request(&peers[i]);
        }
        redis_turn(now_ns() + 300000);
    }
    until_all_are_answered();
}

/* One request at a time: nobody else's makes up for a thread that was not woken. */
static void one_by_one(int requests) {
    for (int i = 0; i < requests; i++) {
        send_request(&peers[BELOW(CLIENTS)]);
        until_all_are_answered();
    }
}

static void send_quiet(Peer *peer, int runnable, int64_t timeout) {
    set_loaded(peer, random_value(1, 4));
    peer->sent = now_ns();
    peer->timeout = timeout;
    peer->leaves = 0;
    send_single(peer, runnable);
}

/* On every device one slow run and one whose batch never fills: the latter must not wait for the former. */
static void slow_and_fast(void) {
    for (int i = 0; i < DEVICES; i++) {
        int slow_first = CHANCE(500);
        for (int k = 0; k < 2; k++) {
            int slow = (k == 0) == slow_first;
            send_quiet(&peers[2 * i + slow], i * KINDS + (slow ? SLOW : TIMED), 0);
        }
    }
    until_all_are_answered();
    for (int i = 0; i < DEVICES; i++) {
        if (peers[2 * i].answered >= peers[2 * i + 1].answered) FATAL("a batch waited for another model's slow run");
    }
}

/* Runs that can only time out, of which in the end nothing may be left, with nobody else's op to sweep them out. They
 * get to the batcher behind another op, or when they have timed out already as the workers were busy. */
static void leave_hanging(int threads) {
    int late = CHANCE(500);
    for (int i = 0; late && i < DEVICES * threads; i++) {
        send_quiet(&peers[DEVICES + i], i % DEVICES * KINDS + SLOW, 0);
        for (int64_t end = now_ns() + 5000000; now_ns() < end;) redis_turn(end); /* for each another worker */
    }
    for (int i = 0; i < DEVICES; i++) {
        if (late) {
            send_quiet(&peers[i], i * KINDS + HANGING, 30000000);
        } else {
            peers[i].sent = now_ns();
            peers[i].leaves = 0;
            send_hanging(&peers[i]);
        }
    }
    until_all_are_answered();
}

static void store_all(void) {
    for (int i = 0; i < RUNNABLES; i++) {
        Client *client = client_new();
        int count;
        store_runnable(client, i, 0);
        const Token *reply;
        while ((reply = client_reply(client, &count)) == NULL) redis_turn(now_ns() + 1000000);
        CHECK(is_simple(reply, "OK"));
        client_close(client);
    }
}

static void delete_all(void) {
    for (int i = 0; i < RUNNABLES; i++) {
        char key[32];
        snprintf(key, sizeof(key), "run%d", i);
        redis_delete(key);
    }
    for (int i = 0; i < CLIENTS; i++) {
        redis_delete(name_text(&peers[i], LOADED));
        redis_delete(name_text(&peers[i], PERSISTED));
    }
}

/* How many allocations there are when nothing has changed for a while, or when there are no more than expected. */
static long settled_allocations(long expected) {
    int64_t since = now_ns(), start = since;
    long last = redis_allocations();
    while (now_ns() - since < 1000000000LL && now_ns() - start < PATIENCE) {
        if (last == expected) break;
        redis_turn(now_ns() + 1000000);
        if (redis_allocations() == last) continue;
        last = redis_allocations();
        since = now_ns();
    }
    return last;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "-I") == 0) engine_process(); /* as the module starts Python */
    double seconds = argc > 1 ? atof(argv[1]) : 10;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    int threads = argc > 3 ? atoi(argv[3]) : 4;
    CHECK(threads > 0 && DEVICES + DEVICES * threads <= CLIENTS);
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    random_state.state = seed;
    engine_seed(seed);
    char number[16];
    snprintf(number, sizeof(number), "%d", threads);
    const char *isolation = argc > 4 ? argv[4] : "none";
    int is_isolated = strcmp(isolation, "none") != 0;
    const char *options[] = {"THREADS_PER_QUEUE", number, "ISOLATION", isolation};
    if (redis_load(options, 4) != REDISMODULE_OK) FATAL("the module refuses to load");

    for (int i = 0; i < CLIENTS; i++) peers[i].number = i;
    store_all();
    delete_all();
    long allocations = settled_allocations(-1);

    store_all();
    for (int i = 0; i < CLIENTS; i++) {
        peers[i].client = client_new();
        set_loaded(&peers[i], random_shape());
    }
    int64_t end = now_ns() + (int64_t)(seconds * 1e9);
    do {
        int64_t part = now_ns() + 4000000000LL;
        one_by_one(100);
        if (threads > 1) slow_and_fast();
        crowd(part < end ? part : end);
    } while (now_ns() < end);
    leave_hanging(threads);
    for (int i = 0; i < CLIENTS; i++) client_close(peers[i].client);
    delete_all();
    long left = settled_allocations(allocations) - allocations;
    EngineCounts ran = engine_counts();
    printf("requests %ld, of them %ld DAGs: %ld done, %ld failed, %ld timed out, %ld left; %ld stores, %ld pauses\n",
           counts.requests, counts.dags, counts.whole, counts.failed, counts.timed_out, counts.left, counts.stores,
           counts.pauses);
    printf("ops %lld, of them %lld failed, %lld in %lld batches; %lld swept; %lld loads; allocations left %ld\n",
           (long long)ran.ops, (long long)ran.failed, (long long)ran.batched, (long long)ran.batches,
           (long long)ran.swept, (long long)ran.loads, left);
    if (is_isolated ? left > KEPT : left) FATAL("%ld allocations were not freed", left);
    int ran_all = is_isolated || (ran.batches && ran.failed && ran.swept);
    if (!counts.whole || !counts.failed || !counts.timed_out || !counts.left || !counts.stores || !ran_all) {
        FATAL("something was never tried");
    }
    return 0;
}
