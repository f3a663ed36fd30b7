/* dag_parse.c - the grammar of DAGs: from words to a run (dag.h). Main thread only.
 *
 * There are two passes over the commands of a DAG. The first parses each command, the second turns names into slots. So
 * the run is made with its final capacity. */
#include <limits.h>

#include "commands/dag.h"
#include "commands/execute.h"
#include "commands/hash_set.h"
#include "redis/command.h"
#include "values/runnable.h"

#define PIPE "|>"
#define UNEXPECTED "Invalid DAG command. Unexpected argument:  %s"

/* How many elements a tensor of these dimensions has; 0: those are none. */
static int64_t count_elements(RedisModuleString **dims, int ndim) {
    long long dim, count = 1;
    for (int i = 0; i < ndim; i++) {
        if (RedisModule_StringToLongLong(dims[i], &dim) == REDISMODULE_ERR || dim < 0) return 0;
        if (__builtin_mul_overflow(count, dim, &count)) return INT64_MAX;
    }
    return count;
}

/* The words of the next command, after the pipe at which p is. p moves to the next pipe or the end. In AI.TENSORSET,
 * the word after BLOB and the elements after RAW are data, never a pipe, even if they have the same two bytes. Behind
 * VALUES and FROM, BLOB and RAW are words like others. */
static RunParser next_command(RunParser *p) {
    RunParser command = {.ctx = p->ctx, .argv = p->argv + ++p->at, .in_dag = 1};
    int data = at_word(p, "AI.TENSORSET") ? p->at + 3 : p->argc; /* after the command, the name and the type */
    while (p->at < p->argc && !at_word(p, PIPE)) {
        int64_t skipped = 0, left = p->argc - p->at - 1;
        if (p->at >= data && at_word(p, "BLOB")) skipped = 1;
        if (p->at >= data && at_word(p, "RAW")) skipped = count_elements(p->argv + data, p->at - data);
        if (p->at >= data && (at_word(p, "VALUES") || at_word(p, "RAW") || at_word(p, "FROM"))) data = p->argc;
        p->at += 1 + (int)(skipped < left ? skipped : left);
    }
    command.argc = (int)(p->argv + p->at - command.argv);
    return command;
}

/* -1: the last word is a pipe. */
static int count_commands(RunParser p) {
    int count = 0;
    for (; p.at < p.argc; count++) {
        if (p.at == p.argc - 1) return -1;
        next_command(&p);
    }
    return count;
}

/* ---- LOAD, PERSIST, ROUTING, TIMEOUT, PRIORITY ------------------------------------------------------------------- */

/* Where the sections are in argv: index of the first key, how many; 0: no such section. */
typedef struct Sections {
    int load, nload;
    int persist, npersist;
    int routing;
    Tensor **loaded; /* references to the tensors of LOAD; NULL behind the last one that was found */
} Sections;

static int are_unique(RedisModuleString **keys, int count) {
    RedisModuleDict *seen = RedisModule_CreateDict(NULL);
    int unique = 1;
    for (int i = 0; i < count && unique; i++) unique = RedisModule_DictSet(seen, keys[i], keys) == REDISMODULE_OK;
    RedisModule_FreeDict(NULL, seen);
    return unique;
}

/* A key of LOAD is looked up, one of PERSIST may not come twice, both before a wrong count is noticed. */
static int check_keys(RunParser *p, Sections *s, int is_load) {
    if (p->ctx == NULL) return 0;
    if (!is_load) {
        if (are_unique(p->argv + s->persist, s->npersist)) return 0;
        return parse_error(p->ctx, "PERSIST keys must be unique");
    }
    s->loaded = RedisModule_Calloc(s->nload, sizeof(*s->loaded));
    for (int i = 0; i < s->nload; i++) {
        Tensor *tensor = lookup_value(p->ctx, p->argv[s->load + i], TensorType, NO_TENSOR);
        if (tensor == NULL) return -1;
        s->loaded[i] = tensor_ref(tensor);
    }
    return 0;
}

/* LOAD or PERSIST: a count, and as many keys. They end at the first pipe, so that a wrong count is noticed. */
static int parse_keys(RunParser *p, Sections *s, int is_load) {
    const char *word = is_load ? "LOAD" : "PERSIST";
    int *first = is_load ? &s->load : &s->persist, *count = is_load ? &s->nload : &s->npersist;
    long long number;
    if (++p->at + 1 >= p->argc) return parse_error(p->ctx, "missing arguments after %s keyword in DAG command", word);
    if (RedisModule_StringToLongLong(p->argv[p->at], &number) == REDISMODULE_ERR || number <= 0) {
        return parse_error(p->ctx, "invalid or negative value found in number of keys to %s", word);
    }
    *first = ++p->at;
    while (p->at < p->argc && p->at - *first < number && !at_word(p, PIPE)) p->at++;
    *count = p->at - *first;
    if (check_keys(p, s, is_load) == -1) return -1;
    if (*count == number) return 0;
    return parse_error(p->ctx, "number of keys to %s does not match the number of given arguments",
                       is_load ? "LOAD into DAG" : "PERSIST after DAG execution");
}

static int parse_section(RunParser *p, const DagGrammar *dag, Sections *s) {
    if (at_word(p, "LOAD") && s->load == 0) return parse_keys(p, s, 1);
    if (at_word(p, "PERSIST") && s->persist == 0) {
        if (dag->is_read_only) return parse_error(p->ctx, "PERSIST cannot be specified in a read-only DAG");
        return parse_keys(p, s, 0);
    }
    if (at_word(p, "TIMEOUT") && p->positions.timeout == 0) {
        return parse_timeout(p, "No value provided for TIMEOUT", LLONG_MIN);
    }
    if (at_word(p, "PRIORITY") && p->positions.priority == 0 && !dag->is_deprecated) return parse_priority(p);
    if (at_word(p, "ROUTING") && s->routing == 0) {
        s->routing = ++p->at;
        if (p->at == p->argc || at_word(p, PIPE)) {
            s->routing = 0;
            return parse_error(p->ctx, "Missing ROUTING value");
        }
        p->at++;
        return 0;
    }
    return parse_error(p->ctx, UNEXPECTED, arg_text(p->argv[p->at]));
}

/* Up to the first pipe; and counts the commands behind. */
static int parse_sections(RunParser *p, const DagGrammar *dag, Sections *s, int *count) {
    *s = (Sections){0};
    while (p->at < p->argc && !at_word(p, PIPE)) {
        if (parse_section(p, dag, s) == -1) return -1;
    }
    *count = count_commands(*p);
    if (*count == -1) return parse_error(p->ctx, UNEXPECTED, PIPE);
    if (!dag->is_deprecated && !s->load && !s->persist && !s->routing) {
        return parse_error(p->ctx, "AI.DAGEXECUTE and AI.DAGEXECUTE_RO commands must contain at least one out of "
                                   "ROUTING, LOAD, PERSIST keywords");
    }
    return *count ? 0 : parse_error(p->ctx, "DAG is empty");
}

/* ---- the commands of a DAG --------------------------------------------------------------------------------------- */

/* A command as it is parsed. */
typedef struct ParsedCommand {
    Step step;
    RunParser p;               /* its words; for STEP_RUN also where its arguments are */
    const RunGrammar *grammar; /* STEP_RUN */
    Tensor *tensor;            /* STEP_SET: a reference, until it goes to the run */
    int nfields;               /* STEP_HASH */
} ParsedCommand;

static const RunGrammar *grammar_named(const RedisModuleString *word) {
    static const RunGrammar *const all[] = {&modelexecute_grammar, &modelrun_grammar, &scriptexecute_grammar,
                                            &scriptrun_grammar};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (arg_is(word, all[i]->command->name)) return all[i];
    }
    return NULL;
}

static int parse_run(ParsedCommand *c, const DagGrammar *dag) {
    RunParser *p = &c->p;
    int is_deprecated = c->grammar == &modelrun_grammar || c->grammar == &scriptrun_grammar;
    if (is_deprecated && !dag->is_deprecated) {
        return parse_error(p->ctx, "Deprecated %s cannot be used in AI.DAGEXECUTE command", c->grammar->command->name);
    }
    if (!is_deprecated && dag->is_deprecated) {
        return parse_error(p->ctx, "%s cannot be used in a deprecated AI.DAGRUN command", c->grammar->command->name);
    }
    if (c->grammar == &scriptexecute_grammar && dag->is_read_only) {
        return parse_error(p->ctx, "AI.SCRIPTEXECUTE command cannot be specified in a read-only DAG");
    }
    c->step.kind = STEP_RUN;
    return parse_execution(p, c->grammar);
}

static int parse_hash(ParsedCommand *c, const DagGrammar *dag) {
    RunParser *p = &c->p;
    HashField field;
    int at = 2, found;
    c->step.kind = STEP_HASH;
    if (dag->is_read_only) return parse_error(p->ctx, "AI.HASHSET cannot be specified in a read-only DAG");
    if (p->argc < 4) return parse_error(p->ctx, WRONG_ARITY, arg_text(p->argv[0]));
    while ((found = hash_next_field(p->ctx, p->argv, p->argc, &at, &field)) == 1) c->nfields++;
    return found;
}

static int parse_command(ParsedCommand *c, const DagGrammar *dag) {
    RunParser *p = &c->p;
    if (p->argc == 0) return parse_error(p->ctx, "Unsupported command within DAG");
    if (arg_is(p->argv[0], "AI.TENSORSET")) {
        if (p->argc < 4) return parse_error(p->ctx, WRONG_ARITY, arg_text(p->argv[0]));
        c->step.kind = STEP_SET;
        return tensor_parse(p->ctx, p->argv + 2, p->argc - 2, &c->tensor);
    }
    if (arg_is(p->argv[0], "AI.TENSORGET")) {
        if (p->argc < 2 || p->argc > 4) return parse_error(p->ctx, WRONG_ARITY, arg_text(p->argv[0]));
        c->step.kind = STEP_GET;
        return tensor_parse_format(p->ctx, p->argv + 2, p->argc - 2, &c->step.format);
    }
    if (arg_is(p->argv[0], "AI.HASHSET")) return parse_hash(c, dag);
    c->grammar = grammar_named(p->argv[0]);
    return c->grammar ? parse_run(c, dag) : parse_error(p->ctx, "Unsupported command within DAG");
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

/* The run while it is made, and what the local names mean. */
typedef struct Builder {
    RedisModuleCtx *ctx;
    Run *run;
    RedisModuleDict *slots; /* name: its latest slot + 1, since 0 would read as NULL, for no such name */
    int *producers;         /* by slot: the op that gives it, or -1 */
    int *inputs;            /* the slots of one op's inputs */
    int nslots;
} Builder;

static int define(Builder *b, RedisModuleString *name, int producer) {
    int slot = b->nslots++;
    b->producers[slot] = producer;
    RedisModule_DictReplace(b->slots, name, (void *)(intptr_t)(slot + 1));
    return slot;
}

/* The slot of a name; -1 after replying an error. */
static int find_slot(Builder *b, RedisModuleString *name, const char *section) {
    int slot = (int)(intptr_t)RedisModule_DictGet(b->slots, name, NULL) - 1;
    return slot >= 0 ? slot : parse_error(b->ctx, "%s key cannot be found in DAG", section);
}

static int add_run(Builder *b, ParsedCommand *c) {
    const RunParser *p = &c->p;
    const ArgPositions *positions = &p->positions;
    for (int i = 0; i < positions->ninputs; i++) {
        b->inputs[i] = find_slot(b, p->argv[input_position(positions, i)], "INPUT");
        if (b->inputs[i] == -1) return -1;
    }
    int first_output = b->nslots;
    c->step.op = b->run->nops;
    for (int i = 0; i < positions->noutputs; i++) define(b, p->argv[output_position(positions, i)], c->step.op);
    add_op(b->run, p, b->inputs, first_output);
    return 0;
}

static int add_hash(Builder *b, const ParsedCommand *c) {
    RedisModuleString **argv = c->p.argv;
    HashField field;
    int at = 2;
    while (hash_next_field(b->ctx, argv, c->p.argc, &at, &field) == 1) {
        int slot = find_slot(b, argv[field.tensor], "AI.HASHSET");
        if (slot == -1) return -1;
        run_add_save(b->run, argv[1], field.name, field.form, slot);
    }
    return key_accepts(b->ctx, argv[1], KEY_OF_HASH) ? 0 : -1;
}

static int add_command(Builder *b, ParsedCommand *c) {
    c->step.op = -1;
    if (c->step.kind == STEP_HASH) return add_hash(b, c);
    if (c->step.kind == STEP_RUN) return add_run(b, c);
    if (c->step.kind == STEP_SET) {
        b->run->slots[define(b, c->p.argv[1], -1)] = c->tensor;
        if (c->tensor->owner) b->run->owns_args = 1;
        c->tensor = NULL;
        return 0;
    }
    c->step.slot = find_slot(b, c->p.argv[1], "INPUT");
    if (c->step.slot == -1) return -1;
    c->step.op = b->producers[c->step.slot];
    return 0;
}

static void add_loaded(Builder *b, RedisModuleString **argv, const Sections *s) {
    for (int i = 0; i < s->nload; i++) b->run->slots[define(b, argv[s->load + i], -1)] = tensor_ref(s->loaded[i]);
}

/* A key of PERSIST becomes a tensor, so it cannot become a hash too. Up to now, only hashes are saved. */
static int check_hashes(Builder *b, RedisModuleString **argv, const Sections *s) {
    const Run *run = b->run;
    RedisModuleString *both = NULL;
    RedisModuleDict *persist = RedisModule_CreateDict(NULL);
    for (int i = 0; run->nsaves && i < s->npersist; i++) RedisModule_DictSet(persist, argv[s->persist + i], argv);
    for (int i = 0; i < run->nsaves && both == NULL; i++) {
        if (RedisModule_DictGet(persist, run->saves[i].key, NULL)) both = run->saves[i].key;
    }
    RedisModule_FreeDict(NULL, persist);
    return both ? parse_error(b->ctx, "the key '%s' is in PERSIST and in AI.HASHSET", arg_text(both)) : 0;
}

static int add_saves(Builder *b, RedisModuleString **argv, const Sections *s) {
    if (check_hashes(b, argv, s) == -1) return -1;
    for (int i = s->persist; i < s->persist + s->npersist; i++) {
        int slot = find_slot(b, argv[i], "PERSIST");
        if (slot == -1 || !key_accepts(b->ctx, argv[i], TensorType)) return -1;
        run_add_save(b->run, argv[i], NULL, 0, slot);
    }
    return 0;
}

/* The run of parsed commands, or NULL after replying an error. */
static Run *build(RedisModuleCtx *ctx, RedisModuleString **argv, const Sections *s, ParsedCommand *commands,
                  int count) {
    int nops = 0, ninputs = 0, max_inputs = 0, nslots = s->nload, nsaves = s->npersist;
    for (int i = 0; i < count; i++) {
        const ArgPositions *positions = &commands[i].p.positions;
        nops += commands[i].step.kind == STEP_RUN;
        nslots += commands[i].step.kind == STEP_SET;
        nsaves += commands[i].nfields;
        if (commands[i].step.kind != STEP_RUN) continue;
        nslots += positions->noutputs;
        ninputs += positions->ninputs;
        if (positions->ninputs > max_inputs) max_inputs = positions->ninputs;
    }
    Builder b = {.ctx = ctx,
                 .run = run_new(nops, nslots, ninputs, nsaves),
                 .slots = RedisModule_CreateDict(NULL),
                 .producers = RedisModule_Alloc(((size_t)nslots + max_inputs) * sizeof(int))};
    b.inputs = b.producers + nslots;

    int failed = 0;
    add_loaded(&b, argv, s);
    for (int i = 0; i < count && !failed; i++) failed = add_command(&b, &commands[i]);
    if (!failed) failed = add_saves(&b, argv, s);
    if (!failed) {
        Run *run = b.run;
        if (s->routing) run->routing.data = arg_copy(argv[s->routing], &run->routing.size);
        run->nsteps = count;
        run->steps = RedisModule_Alloc(count * sizeof(Step));
        for (int i = 0; i < count; i++) run->steps[i] = commands[i].step;
    }
    RedisModule_Free(b.producers);
    RedisModule_FreeDict(NULL, b.slots);
    if (!failed) return b.run;
    run_unref(b.run);
    return NULL;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static Run *parse_commands(RunParser *p, const DagGrammar *dag, const Sections *s, int count) {
    ParsedCommand *commands = RedisModule_Calloc(count, sizeof(*commands));
    int failed = 0, parsed = 0;
    while (parsed < count && !failed) {
        commands[parsed].p = next_command(p);
        failed = parse_command(&commands[parsed++], dag);
    }
    Run *run = failed ? NULL : build(p->ctx, p->argv, s, commands, count);
    for (int i = 0; i < parsed; i++) {
        if (commands[i].tensor) tensor_unref(commands[i].tensor);
    }
    RedisModule_Free(commands);
    return run;
}

Run *dag_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagGrammar *dag, long long *timeout) {
    Sections s;
    int count;
    RunParser p = {.ctx = ctx, .argv = argv, .argc = argc, .at = 1};
    Run *run = parse_sections(&p, dag, &s, &count) == -1 ? NULL : parse_commands(&p, dag, &s, count);
    *timeout = p.positions.timeout > 0 ? p.positions.timeout : 0;
    for (int i = 0; run && p.positions.priority && i < run->nops; i++) run->ops[i].priority = p.positions.priority;
    for (int i = 0; s.loaded && i < s.nload && s.loaded[i]; i++) tensor_unref(s.loaded[i]);
    RedisModule_Free(s.loaded);
    return run;
}

int dag_report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagGrammar *dag) {
    Sections s;
    int count;
    RunParser p = {.argv = argv, .argc = argc, .at = 1};
    parse_sections(&p, dag, &s, &count);
    for (int i = 0; i < s.nload; i++) RedisModule_KeyAtPosWithFlags(ctx, s.load + i, KEY_READ);
    for (int i = 0; i < s.npersist; i++) RedisModule_KeyAtPosWithFlags(ctx, s.persist + i, KEY_WRITE);
    if (s.routing) RedisModule_KeyAtPosWithFlags(ctx, s.routing, REDISMODULE_CMD_KEY_RO);
    while (p.at < argc && !at_word(&p, PIPE)) p.at++;
    while (p.at < argc) {
        RunParser c = next_command(&p);
        int at = (int)(c.argv - argv);
        if (c.argc > 1 && arg_is(c.argv[0], "AI.TENSORSET")) tensor_report_keys(ctx, c.argv, c.argc, at);
        if (c.argc > 1 && arg_is(c.argv[0], "AI.HASHSET")) RedisModule_KeyAtPosWithFlags(ctx, at + 1, KEY_UPDATE);
        const RunGrammar *grammar = c.argc > 1 ? grammar_named(c.argv[0]) : NULL;
        if (grammar == NULL) continue;
        parse_positions(&c, grammar);
        RedisModule_KeyAtPosWithFlags(ctx, at + 1, KEY_READ);
        report_script_keys(ctx, &c.positions, at);
    }
    return REDISMODULE_OK;
}
