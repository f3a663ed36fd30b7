/* dag.h - DAGs: commands that are one run of several ops. Main thread only.
 *
 * AI.TENSORSET and AI.TENSORGET never leave the main thread: the tensor of the one is made while the DAG is parsed, the
 * reply of the other when all is done. Names are local to the command and become slots while it is parsed. A name that
 * is given again gets a new slot. */
#pragma once

#include "commands/tensor.h"
#include "run/state.h"

/* How the four commands differ. */
typedef struct DagGrammar {
    const char *command;
    int is_deprecated; /* AI.DAGRUN...: MODELRUN and SCRIPTRUN inside */
    int is_read_only;
} DagGrammar;

typedef enum { STEP_SET, STEP_GET, STEP_RUN, STEP_HASH } StepKind;

/* What the reply needs of one command of a DAG. */
typedef struct Step {
    StepKind kind;
    int slot; /* STEP_GET */
    int op;   /* the op that it is or that gives its slot; -1: none */
    TensorFormat format;
} Step;

/* The run of a DAG, and its timeout (ms, 0: none). NULL after replying an error: if anything is wrong with any of its
 * commands, none runs. */
Run *dag_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagGrammar *grammar, long long *timeout);

/* Tells Redis where the keys are: LOAD, PERSIST, ROUTING, models, scripts and their KEYS, sources of FROM, hashes. */
int dag_report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagGrammar *grammar);
