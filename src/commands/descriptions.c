/* commands/descriptions.c - what COMMAND DOCS, COMMAND GETKEYS and redis-cli's hints know of the commands
 * (redis/command_info.h).
 *
 * Tables only, used by the main thread at load. Redis copies them. Key specifications marked INCOMPLETE tell clients
 * where keys usually are; the server itself asks the command (getkeys-api), which cannot be fooled by a key named
 * OUTPUTS. */
#include "commands/commands.h"

#define OPTIONAL REDISMODULE_CMD_ARG_OPTIONAL
#define MULTIPLE REDISMODULE_CMD_ARG_MULTIPLE

#define READS (REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS)
#define WRITES (REDISMODULE_CMD_KEY_OW | REDISMODULE_CMD_KEY_UPDATE)
#define CHANGES (REDISMODULE_CMD_KEY_RW | REDISMODULE_CMD_KEY_ACCESS | REDISMODULE_CMD_KEY_UPDATE)
#define DELETES (REDISMODULE_CMD_KEY_RM | REDISMODULE_CMD_KEY_DELETE)

/* Arguments: a plain value, a word, and a value or block that a word introduces. */
#define STRING_ARG(n) {.name = n, .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1}
#define INTEGER_ARG(n) {.name = n, .type = REDISMODULE_ARG_TYPE_INTEGER, .key_spec_index = -1}
#define WORD(n, word) {.name = n, .type = REDISMODULE_ARG_TYPE_PURE_TOKEN, .token = word, .key_spec_index = -1}
#define OPTIONAL_WORD(n, word)                                                                                         \
    {.name = n, .type = REDISMODULE_ARG_TYPE_PURE_TOKEN, .token = word, .key_spec_index = -1, .flags = OPTIONAL}
#define KEY_ARG(n, spec) {.name = n, .type = REDISMODULE_ARG_TYPE_KEY, .key_spec_index = spec}
#define KEYS_ARG(n, spec) {.name = n, .type = REDISMODULE_ARG_TYPE_KEY, .key_spec_index = spec, .flags = MULTIPLE}
#define END_ARGS {0}

#define FIRST_KEY(how)                                                                                                 \
    {.flags = how,                                                                                                     \
     .begin_search_type = REDISMODULE_KSPEC_BS_INDEX,                                                                  \
     .bs.index.pos = 1,                                                                                                \
     .find_keys_type = REDISMODULE_KSPEC_FK_RANGE,                                                                     \
     .fk.range = {0, 1, 0}}
#define COUNTED_KEYS_FROM(start, how, word)                                                                            \
    {.flags = (how) | REDISMODULE_CMD_KEY_INCOMPLETE,                                                                  \
     .begin_search_type = REDISMODULE_KSPEC_BS_KEYWORD,                                                                \
     .bs.keyword = {word, start},                                                                                      \
     .find_keys_type = REDISMODULE_KSPEC_FK_KEYNUM,                                                                    \
     .fk.keynum = {0, 1, 1}}
#define COUNTED_KEYS(how, word) COUNTED_KEYS_FROM(2, how, word)
#define LISTED_KEYS(how)                                                                                               \
    {.flags = (how) | REDISMODULE_CMD_KEY_INCOMPLETE,                                                                  \
     .begin_search_type = REDISMODULE_KSPEC_BS_UNKNOWN,                                                                \
     .find_keys_type = REDISMODULE_KSPEC_FK_UNKNOWN}

static RedisModuleCommandKeySpec read_key[] = {FIRST_KEY(READS), {0}};
static RedisModuleCommandKeySpec write_key[] = {FIRST_KEY(WRITES), {0}};
static RedisModuleCommandKeySpec delete_key[] = {FIRST_KEY(DELETES), {0}};
static RedisModuleCommandKeySpec execute_keys[] = {
    FIRST_KEY(READS), COUNTED_KEYS(READS, "INPUTS"), COUNTED_KEYS(WRITES, "OUTPUTS"), {0}};
static RedisModuleCommandKeySpec script_execute_keys[] = {FIRST_KEY(READS),
                                                          COUNTED_KEYS(CHANGES, "KEYS"),
                                                          COUNTED_KEYS(READS, "INPUTS"),
                                                          COUNTED_KEYS(WRITES, "OUTPUTS"),
                                                          {0}};
static RedisModuleCommandKeySpec run_keys[] = {FIRST_KEY(READS), LISTED_KEYS(READS), LISTED_KEYS(WRITES), {0}};

static RedisModuleCommandKeySpec dag_keys[] = {
    COUNTED_KEYS_FROM(1, READS, "LOAD"), COUNTED_KEYS_FROM(1, WRITES, "PERSIST"), LISTED_KEYS(READS), {0}};
static RedisModuleCommandKeySpec dag_ro_keys[] = {COUNTED_KEYS_FROM(1, READS, "LOAD"), LISTED_KEYS(READS), {0}};

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static RedisModuleCommandArg tensor_data[] = {
    {.name = "blob", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "BLOB"},
    {.name = "value", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "VALUES", .flags = MULTIPLE},
    END_ARGS};
static RedisModuleCommandArg tensorset_args[] = {
    KEY_ARG("key", 0),
    STRING_ARG("type"),
    {.name = "dimension", .type = REDISMODULE_ARG_TYPE_INTEGER, .key_spec_index = -1, .flags = MULTIPLE},
    {.name = "data",
     .type = REDISMODULE_ARG_TYPE_ONEOF,
     .key_spec_index = -1,
     .flags = OPTIONAL,
     .subargs = tensor_data},
    END_ARGS};
static RedisModuleCommandArg tensor_format[] = {WORD("blob", "BLOB"), WORD("values", "VALUES"), END_ARGS};
static RedisModuleCommandArg tensorget_args[] = {KEY_ARG("key", 0),
                                                 OPTIONAL_WORD("meta", "META"),
                                                 {.name = "format",
                                                  .type = REDISMODULE_ARG_TYPE_ONEOF,
                                                  .key_spec_index = -1,
                                                  .flags = OPTIONAL,
                                                  .subargs = tensor_format},
                                                 END_ARGS};

/* ---- models ------------------------------------------------------------------------------------------------------ */

static RedisModuleCommandArg backends[] = {WORD("tf", "TF"), WORD("tflite", "TFLITE"), WORD("torch", "TORCH"),
                                           WORD("onnx", "ONNX"), END_ARGS};
static RedisModuleCommandArg batch_timeout[] = {WORD("minbatchtimeout", "MINBATCHTIMEOUT"), INTEGER_ARG("milliseconds"),
                                                END_ARGS};
static RedisModuleCommandArg min_batch[] = {WORD("minbatchsize", "MINBATCHSIZE"),
                                            INTEGER_ARG("least"),
                                            {.name = "timeout",
                                             .type = REDISMODULE_ARG_TYPE_BLOCK,
                                             .key_spec_index = -1,
                                             .flags = OPTIONAL,
                                             .subargs = batch_timeout},
                                            END_ARGS};
static RedisModuleCommandArg batch[] = {WORD("batchsize", "BATCHSIZE"),
                                        INTEGER_ARG("most"),
                                        {.name = "minimum",
                                         .type = REDISMODULE_ARG_TYPE_BLOCK,
                                         .key_spec_index = -1,
                                         .flags = OPTIONAL,
                                         .subargs = min_batch},
                                        END_ARGS};
static RedisModuleCommandArg names[] = {
    {.name = "name", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .flags = MULTIPLE}, END_ARGS};
static RedisModuleCommandArg counted_names[] = {
    INTEGER_ARG("count"),
    {.name = "name", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .flags = MULTIPLE},
    END_ARGS};

#define TAG_ARG                                                                                                        \
    {.name = "tag", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "TAG", .flags = OPTIONAL}
#define BLOCK_ARG(n, word, inner)                                                                                      \
    {.name = n,                                                                                                        \
     .type = REDISMODULE_ARG_TYPE_BLOCK,                                                                               \
     .key_spec_index = -1,                                                                                             \
     .token = word,                                                                                                    \
     .flags = OPTIONAL,                                                                                                \
     .subargs = inner}
#define BACKEND_ARG {.name = "backend", .type = REDISMODULE_ARG_TYPE_ONEOF, .key_spec_index = -1, .subargs = backends}
#define BLOB_ARG                                                                                                       \
    {.name = "chunk", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "BLOB", .flags = MULTIPLE}

static RedisModuleCommandArg modelstore_args[] = {KEY_ARG("key", 0),
                                                  BACKEND_ARG,
                                                  STRING_ARG("device"),
                                                  TAG_ARG,
                                                  BLOCK_ARG("batch", NULL, batch),
                                                  BLOCK_ARG("inputs", "INPUTS", counted_names),
                                                  BLOCK_ARG("outputs", "OUTPUTS", counted_names),
                                                  BLOB_ARG,
                                                  END_ARGS};
static RedisModuleCommandArg modelset_args[] = {KEY_ARG("key", 0),
                                                BACKEND_ARG,
                                                STRING_ARG("device"),
                                                TAG_ARG,
                                                BLOCK_ARG("batch", NULL, batch),
                                                BLOCK_ARG("inputs", "INPUTS", names),
                                                BLOCK_ARG("outputs", "OUTPUTS", names),
                                                BLOB_ARG,
                                                END_ARGS};
static RedisModuleCommandArg modelget_args[] = {KEY_ARG("key", 0), OPTIONAL_WORD("meta", "META"),
                                                OPTIONAL_WORD("blob", "BLOB"), END_ARGS};
static RedisModuleCommandArg key_args[] = {KEY_ARG("key", 0), END_ARGS};

/* ---- runs -------------------------------------------------------------------------------------------------------- */

#define TIMEOUT_ARG                                                                                                    \
    {.name = "milliseconds",                                                                                           \
     .type = REDISMODULE_ARG_TYPE_INTEGER,                                                                             \
     .key_spec_index = -1,                                                                                             \
     .token = "TIMEOUT",                                                                                               \
     .flags = OPTIONAL}

static RedisModuleCommandArg execute_inputs[] = {INTEGER_ARG("input_count"), KEYS_ARG("input", 1), END_ARGS};
static RedisModuleCommandArg execute_outputs[] = {INTEGER_ARG("output_count"), KEYS_ARG("output", 2), END_ARGS};
static RedisModuleCommandArg modelexecute_args[] = {KEY_ARG("key", 0),
                                                    {.name = "inputs",
                                                     .type = REDISMODULE_ARG_TYPE_BLOCK,
                                                     .key_spec_index = -1,
                                                     .token = "INPUTS",
                                                     .subargs = execute_inputs},
                                                    {.name = "outputs",
                                                     .type = REDISMODULE_ARG_TYPE_BLOCK,
                                                     .key_spec_index = -1,
                                                     .token = "OUTPUTS",
                                                     .subargs = execute_outputs},
                                                    TIMEOUT_ARG,
                                                    END_ARGS};
static RedisModuleCommandArg modelrun_args[] = {
    KEY_ARG("key", 0),
    TIMEOUT_ARG,
    {.name = "input", .type = REDISMODULE_ARG_TYPE_KEY, .key_spec_index = 1, .token = "INPUTS", .flags = MULTIPLE},
    {.name = "output", .type = REDISMODULE_ARG_TYPE_KEY, .key_spec_index = 2, .token = "OUTPUTS", .flags = MULTIPLE},
    END_ARGS};

/* ---- scripts ----------------------------------------------------------------------------------------------------- */

static RedisModuleCommandArg entry_points[] = {
    INTEGER_ARG("count"),
    {.name = "function", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .flags = MULTIPLE},
    END_ARGS};
static RedisModuleCommandArg scriptstore_args[] = {
    KEY_ARG("key", 0),
    STRING_ARG("device"),
    TAG_ARG,
    {.name = "entry_points",
     .type = REDISMODULE_ARG_TYPE_BLOCK,
     .key_spec_index = -1,
     .token = "ENTRY_POINTS",
     .subargs = entry_points},
    {.name = "source", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "SOURCE"},
    END_ARGS};
static RedisModuleCommandArg scriptset_args[] = {
    KEY_ARG("key", 0),
    STRING_ARG("device"),
    TAG_ARG,
    {.name = "source", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "SOURCE"},
    END_ARGS};
static RedisModuleCommandArg scriptget_args[] = {KEY_ARG("key", 0), OPTIONAL_WORD("meta", "META"),
                                                 OPTIONAL_WORD("source", "SOURCE"), END_ARGS};
static RedisModuleCommandArg script_keys[] = {INTEGER_ARG("key_count"), KEYS_ARG("key", 1), END_ARGS};
static RedisModuleCommandArg script_inputs[] = {INTEGER_ARG("input_count"), KEYS_ARG("input", 2), END_ARGS};
static RedisModuleCommandArg script_arguments[] = {
    INTEGER_ARG("arg_count"),
    {.name = "arg", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .flags = MULTIPLE},
    END_ARGS};
static RedisModuleCommandArg script_outputs[] = {INTEGER_ARG("output_count"), KEYS_ARG("output", 3), END_ARGS};
static RedisModuleCommandArg scriptexecute_args[] = {KEY_ARG("key", 0),
                                                     STRING_ARG("function"),
                                                     BLOCK_ARG("keys", "KEYS", script_keys),
                                                     BLOCK_ARG("inputs", "INPUTS", script_inputs),
                                                     BLOCK_ARG("args", "ARGS", script_arguments),
                                                     BLOCK_ARG("outputs", "OUTPUTS", script_outputs),
                                                     TIMEOUT_ARG,
                                                     END_ARGS};
static RedisModuleCommandArg scriptrun_args[] = {
    KEY_ARG("key", 0),
    STRING_ARG("function"),
    TIMEOUT_ARG,
    {.name = "input", .type = REDISMODULE_ARG_TYPE_KEY, .key_spec_index = 1, .token = "INPUTS", .flags = MULTIPLE},
    {.name = "output", .type = REDISMODULE_ARG_TYPE_KEY, .key_spec_index = 2, .token = "OUTPUTS", .flags = MULTIPLE},
    END_ARGS};

/* ---- DAGs -------------------------------------------------------------------------------------------------------- */

static RedisModuleCommandArg dag_load[] = {INTEGER_ARG("load_count"), KEYS_ARG("load", 0), END_ARGS};
static RedisModuleCommandArg dag_persist[] = {INTEGER_ARG("persist_count"), KEYS_ARG("persist", 1), END_ARGS};
#define DAG_COMMANDS                                                                                                   \
    {.name = "command",                                                                                                \
     .type = REDISMODULE_ARG_TYPE_STRING,                                                                              \
     .key_spec_index = -1,                                                                                             \
     .token = "|>",                                                                                                    \
     .flags = MULTIPLE | REDISMODULE_CMD_ARG_MULTIPLE_TOKEN}
#define ROUTING_ARG                                                                                                    \
    {.name = "routing",                                                                                                \
     .type = REDISMODULE_ARG_TYPE_STRING,                                                                              \
     .key_spec_index = -1,                                                                                             \
     .token = "ROUTING",                                                                                               \
     .flags = OPTIONAL}
static RedisModuleCommandArg dagexecute_args[] = {BLOCK_ARG("load_keys", "LOAD", dag_load),
                                                  BLOCK_ARG("persist_keys", "PERSIST", dag_persist),
                                                  ROUTING_ARG,
                                                  TIMEOUT_ARG,
                                                  DAG_COMMANDS,
                                                  END_ARGS};
static RedisModuleCommandArg dagexecute_ro_args[] = {BLOCK_ARG("load_keys", "LOAD", dag_load), ROUTING_ARG, TIMEOUT_ARG,
                                                     DAG_COMMANDS, END_ARGS};
static RedisModuleCommandArg dagrun_args[] = {BLOCK_ARG("load_keys", "LOAD", dag_load),
                                              BLOCK_ARG("persist_keys", "PERSIST", dag_persist), TIMEOUT_ARG,
                                              DAG_COMMANDS, END_ARGS};
static RedisModuleCommandArg dagrun_ro_args[] = {BLOCK_ARG("load_keys", "LOAD", dag_load), TIMEOUT_ARG, DAG_COMMANDS,
                                                 END_ARGS};

/* ---- surroundings ------------------------------------------------------------------------------------------------ */

static RedisModuleCommandArg info_actions[] = {WORD("full", "FULL"), WORD("resetstat", "RESETSTAT"), END_ARGS};
static RedisModuleCommandArg info_args[] = {KEY_ARG("key", 0),
                                            {.name = "action",
                                             .type = REDISMODULE_ARG_TYPE_ONEOF,
                                             .key_spec_index = -1,
                                             .flags = OPTIONAL,
                                             .subargs = info_actions},
                                            END_ARGS};
static RedisModuleCommandArg loadbackend[] = {BACKEND_ARG, STRING_ARG("path"), END_ARGS};
static RedisModuleCommandArg config_actions[] = {
    {.name = "name", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "GET"},
    {.name = "path", .type = REDISMODULE_ARG_TYPE_STRING, .key_spec_index = -1, .token = "BACKENDSPATH"},
    {.name = "loadbackend",
     .type = REDISMODULE_ARG_TYPE_BLOCK,
     .key_spec_index = -1,
     .token = "LOADBACKEND",
     .subargs = loadbackend},
    {.name = "bytes", .type = REDISMODULE_ARG_TYPE_INTEGER, .key_spec_index = -1, .token = "MODEL_CHUNK_SIZE"},
    END_ARGS};
static RedisModuleCommandArg config_args[] = {
    {.name = "action", .type = REDISMODULE_ARG_TYPE_ONEOF, .key_spec_index = -1, .subargs = config_actions}, END_ARGS};

typedef struct CommandDescription {
    const char *name, *categories, *summary, *complexity, *since;
    int arity;
    RedisModuleCommandKeySpec *keys;
    RedisModuleCommandArg *args;
} CommandDescription;

static const CommandDescription descriptions[] = {
    {"AI.TENSORSET", "write slow", "Stores a tensor", "O(N) where N is the size of the tensor", "1.0.0", -4, write_key,
     tensorset_args},
    {"AI.TENSORGET", "read slow", "Returns a tensor's metadata and data", "O(N) where N is the size of the tensor",
     "1.0.0", -2, read_key, tensorget_args},
    {"AI.MODELSTORE", "write slow", "Stores a model; the server goes on while it is compiled", "O(1), and compiling it",
     "1.2.0", -4, write_key, modelstore_args},
    {"AI.MODELSET", "write slow", "Stores a model (deprecated: use AI.MODELSTORE)", "O(1), and compiling it", "1.0.0",
     -4, write_key, modelset_args},
    {"AI.MODELGET", "read slow", "Returns a model's metadata and blob", "O(N) where N is the size of the blob", "1.0.0",
     -2, read_key, modelget_args},
    {"AI.MODELDEL", "write slow", "Deletes a model", "O(1)", "1.0.0", 2, delete_key, key_args},
    {"AI._MODELSCAN", "read slow", "Returns the keys and tags of all models", "O(N) where N is the number of keys",
     "1.0.0", 1, NULL, NULL},
    {"AI.MODELEXECUTE", "write slow", "Runs a model on tensors and stores its outputs", "O(1), and running it", "1.2.0",
     -3, execute_keys, modelexecute_args},
    {"AI.MODELRUN", "write slow", "Runs a model on tensors and stores its outputs (deprecated: use AI.MODELEXECUTE)",
     "O(1), and running it", "1.0.0", -2, run_keys, modelrun_args},
    {"AI.SCRIPTSTORE", "write slow", "Stores a TorchScript; the server goes on while it is compiled",
     "O(1), and compiling it", "1.2.0", -3, write_key, scriptstore_args},
    {"AI.SCRIPTSET", "write slow", "Stores a TorchScript (deprecated: use AI.SCRIPTSTORE)", "O(1), and compiling it",
     "1.0.0", -3, write_key, scriptset_args},
    {"AI.SCRIPTGET", "read slow", "Returns a script's metadata and source", "O(N) where N is the size of the source",
     "1.0.0", -2, read_key, scriptget_args},
    {"AI.SCRIPTDEL", "write slow", "Deletes a script", "O(1)", "1.0.0", 2, delete_key, key_args},
    {"AI._SCRIPTSCAN", "read slow", "Returns the keys and tags of all scripts", "O(N) where N is the number of keys",
     "1.0.0", 1, NULL, NULL},
    {"AI.SCRIPTEXECUTE", "write slow", "Runs a script's function on tensors, keys and arguments and stores its outputs",
     "O(1), and running it", "1.2.0", -3, script_execute_keys, scriptexecute_args},
    {"AI.SCRIPTRUN", "write slow", "Runs a script's function on tensors (deprecated: use AI.SCRIPTEXECUTE)",
     "O(1), and running it", "1.0.0", -3, run_keys, scriptrun_args},
    {"AI.DAGEXECUTE", "write slow", "Runs a graph of models and scripts on local tensors", "O(1), and running it",
     "1.2.0", -1, dag_keys, dagexecute_args},
    {"AI.DAGEXECUTE_RO", "read slow", "Runs a graph of models, also on a read-only replica", "O(1), and running it",
     "1.2.0", -1, dag_ro_keys, dagexecute_ro_args},
    {"AI.DAGRUN", "write slow", "Runs a graph of models and scripts (deprecated: use AI.DAGEXECUTE)",
     "O(1), and running it", "1.0.0", -1, dag_keys, dagrun_args},
    {"AI.DAGRUN_RO", "read slow", "Runs a graph of models and scripts (deprecated: use AI.DAGEXECUTE_RO)",
     "O(1), and running it", "1.0.0", -1, dag_ro_keys, dagrun_ro_args},
    {"AI.INFO", "read slow", "Returns or resets the run statistics of a model or script", "O(1)", "1.0.0", -2, read_key,
     info_args},
    {"AI.CONFIG", "admin dangerous slow", "Reads and sets options, loads backends", "O(1), and loading the backend",
     "1.0.0", -2, NULL, config_args},
};

int command_info_register(RedisModuleCtx *ctx) {
    static const RedisModuleCommandInfoVersion version = {
        .version = 1,
        .sizeof_historyentry = sizeof(RedisModuleCommandHistoryEntry),
        .sizeof_keyspec = sizeof(RedisModuleCommandKeySpec),
        .sizeof_arg = sizeof(RedisModuleCommandArg),
    };
    for (size_t i = 0; i < sizeof(descriptions) / sizeof(descriptions[0]); i++) {
        const CommandDescription *d = &descriptions[i];
        RedisModuleCommandInfo info = {
            .version = &version,
            .summary = d->summary,
            .complexity = d->complexity,
            .since = d->since,
            .arity = d->arity,
            .key_specs = d->keys,
            .args = d->args,
        };
        RedisModuleCommand *command = RedisModule_GetCommand(ctx, d->name);
        if (RedisModule_SetCommandACLCategories) RedisModule_SetCommandACLCategories(command, d->categories);
        if (RedisModule_SetCommandInfo(command, &info) == REDISMODULE_ERR) {
            RedisModule_Log(ctx, "warning", "the server refused the description of %s", d->name);
            return REDISMODULE_ERR;
        }
    }
    return REDISMODULE_OK;
}
