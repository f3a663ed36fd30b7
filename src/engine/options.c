/* options.c - the load-time options (options.h).
 *
 * Main thread, except bridge_option and bridge_backends_path, which the loader calls. Lock: the leaf
 * backends_path.mutex. */
#include "engine/options.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "redis/command.h"
#include "values/backend.h"
#include "values/model.h"

#define MAX_THREADS 1024
#define MAX_BACKENDS 16

#define THREADS_PER_QUEUE 0 /* its row */
static OptionRow options[] = {
    [THREADS_PER_QUEUE] = {.python = {"threads_per_queue", 1}, .min = 1, .max = MAX_THREADS},
    {.python = {"inter_op_parallelism", 0}, .max = MAX_THREADS},
    {.python = {"intra_op_parallelism", 0}, .max = MAX_THREADS},
    {.python = {"model_execution_timeout", 5000}, .min = 1000, .max = INT_MAX}, /* ms */
    {.python = {"backend_memory_limit", 0}, .max = LLONG_MAX >> 20},            /* MB; 0: none */
    {.python = {"allow_file_ops", 0}, .max = 1}, /* 1: models may touch files and run Python */
    {.python = {"model_chunk_size", MODEL_CHUNK_SIZE},
     .min = 1,
     .max = LLONG_MAX,
     .at_run_time = 1,
     .changed = model_set_chunk_size},
};

static struct {
    pthread_mutex_t mutex;
    char *path; /* the main thread sets it, the loader copies it */
} backends_path = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static char *backends_to_load[MAX_BACKENDS]; /* by number: path, or NULL */
static char *python_path;

OptionRow *option_row(int index) {
    return index >= 0 && index < (int)(sizeof(options) / sizeof(options[0])) ? &options[index] : NULL;
}

const Option *bridge_option(int index) {
    const OptionRow *row = option_row(index);
    return row ? &row->python : NULL;
}

OptionRow *option_named(const RedisModuleString *name) {
    for (int i = 0; option_row(i); i++) {
        if (arg_is(name, options[i].python.name)) return &options[i];
    }
    return NULL;
}

int option_set(OptionRow *option, const RedisModuleString *text) {
    long long value;
    if (RedisModule_StringToLongLong(text, &value) == REDISMODULE_ERR) return -1;
    if (value < option->min || value > option->max) return -1;
    option->python.value = value;
    if (option->changed) option->changed(value);
    return 0;
}

int64_t threads_per_queue(void) { return options[THREADS_PER_QUEUE].python.value; }

/* ---- paths ------------------------------------------------------------------------------------------------------- */

const char *options_module_folder(void) {
    static char folder[PATH_MAX];
    Dl_info info;
    if (folder[0]) return folder;
    if (!dladdr((void *)options_module_folder, &info) || realpath(info.dli_fname, folder) == NULL) return NULL;
    *strrchr(folder, '/') = '\0';
    return folder;
}

static void set_backends_path(char *path) {
    pthread_mutex_lock(&backends_path.mutex);
    char *old = backends_path.path;
    backends_path.path = path;
    pthread_mutex_unlock(&backends_path.mutex);
    RedisModule_Free(old);
}

void options_set_backends_path(const RedisModuleString *path) { set_backends_path(arg_copy(path, NULL)); }

char *bridge_backends_path(void) {
    pthread_mutex_lock(&backends_path.mutex);
    char *copy = RedisModule_Strdup(backends_path.path);
    pthread_mutex_unlock(&backends_path.mutex);
    return copy;
}

void bridge_free(char *text) { RedisModule_Free(text); }
const char *options_backend_to_load(int backend) { return backends_to_load[backend]; }
const char *options_python(void) { return python_path; }

/* ---- the arguments of loadmodule --------------------------------------------------------------------------------- */

static void replace(char **text, const RedisModuleString *value) {
    RedisModule_Free(*text);
    *text = arg_copy(value, NULL);
}

static int parse_option(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleString *value) {
    OptionRow *option = option_named(name);
    if (option) {
        if (option_set(option, value) == 0) return REDISMODULE_OK;
        return log_refusal(ctx, "invalid value '%s' for %s: a number from %lld to %lld is needed", arg_text(value),
                           arg_text(name), (long long)option->min, (long long)option->max);
    }
    int backend = backend_from_name(name);
    if (arg_is(name, "BACKENDSPATH")) {
        options_set_backends_path(value);
    } else if (arg_is(name, "PYTHON")) {
        replace(&python_path, value);
    } else if (backend != -1) {
        replace(&backends_to_load[backend], value);
    } else {
        return log_refusal(ctx, "unknown option '%s'", arg_text(name));
    }
    return REDISMODULE_OK;
}

int options_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (options_module_folder() == NULL) return log_refusal(ctx, "cannot find the folder of redisai.so");
    char path[PATH_MAX + 16];
    snprintf(path, sizeof(path), "%s/backends", options_module_folder());
    set_backends_path(RedisModule_Strdup(path));
    if (argc % 2) return log_refusal(ctx, "options come in pairs: NAME value, but an odd number of words was given");
    for (int i = 0; i < argc; i += 2) {
        if (parse_option(ctx, argv[i], argv[i + 1]) == REDISMODULE_ERR) return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
