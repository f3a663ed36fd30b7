/* dag.h - DAGs: commands that are one run of several ops. Main thread only.
 *
 * AI.TENSORSET and AI.TENSORGET never leave the main thread: the former's tensor is made while the DAG is parsed, the
 * latter's reply when all is done. Names are local to the command and become slots while it is parsed; a name that is
 * given anew is a new slot. */
#ifndef COMMANDS_DAG_H
#define COMMANDS_DAG_H

#include "bridge.h"
#include "commands/tensor.h"
#include "redis/api.h"
#include "run/state.h"

/* How the four commands differ. */
typedef struct DagGrammar {
    const char *command;
    int is_deprecated; /* AI.DAGRUN...: MODELRUN and SCRIPTRUN inside, no ROUTING */
    int is_read_only;
} DagGrammar;

typedef enum { STEP_SET, STEP_GET, STEP_RUN } StepKind;

/* One command of a DAG, as far as the reply needs it. */
typedef struct Step {
    StepKind kind;
    int slot; /* STEP_GET */
    int op;   /* of the run: which it is, or which gives the slot; -1: none */
    TensorFormat format;
} Step;

/* The run of a DAG, and how long it may take (ms, 0: as long as it likes). NULL after replying an error: nothing has
 * been run, whatever is wrong with any of its commands. */
Run *dag_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagGrammar *grammar, long long *timeout);

/* Answers where the keys are: LOAD, PERSIST, ROUTING, models, scripts and their KEYS. */
int dag_report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagGrammar *grammar);

#endif
