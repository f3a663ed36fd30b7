/* options.c - the load-time options (options.h).
 *
 * Main thread, except the functions of bridge.h, which the loader and the carriers of engine processes call. Lock: the
 * leaf text_mutex. */
#include "engine/options.h"

#include <ctype.h>
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "redis/command.h"
#include "values/backend.h"
#include "values/model.h"

#define MAX_THREADS 1024
#define MAX_BACKENDS 16

#define THREADS_PER_QUEUE 0 /* their rows */
#define SAFE_START 1
#define ISOLATION 2
#define ISOLATION_MEMORY_LIMIT 3
#define MODEL_EXECUTION_TIMEOUT 4
#define MODEL_LOAD_TIMEOUT 5
#define MAX_QUEUED 6
#define MAX_QUEUED_BYTES 7
#define BINDINGS 8
#define FLOWS 9
#define FLOWS_MEMORY_LIMIT 10
static const char *const isolation_words[] = {"none", "process", NULL};
static const char *const yes_no[] = {"no", "yes", NULL};
static OptionRow options[] = {
    [THREADS_PER_QUEUE] = {.python = {"threads_per_queue", 1}, .min = 1, .max = MAX_THREADS},
    [SAFE_START] = {.python = {"safe_start", 0}, .max = 1}, /* 1: values that were not stored here wait for a run */
    [ISOLATION] = {.python = {"isolation", 0},
                   .max = 1,
                   .words = isolation_words}, /* whether models run in processes */
    [ISOLATION_MEMORY_LIMIT] = {.python = {"isolation_memory_limit", 0}, .max = LLONG_MAX / MB}, /* MB; 0: none */
    [MODEL_EXECUTION_TIMEOUT] = {.python = {"model_execution_timeout", 5000}, .min = 1000, .max = INT_MAX}, /* ms */
    [MODEL_LOAD_TIMEOUT] = {.python = {"model_load_timeout", 0}, .max = INT_MAX}, /* ms; 0: none */
    [MAX_QUEUED] = {.python = {"max_queued", 0}, .max = LLONG_MAX, .at_run_time = 1},
    [MAX_QUEUED_BYTES] = {.python = {"max_queued_bytes", 0}, .max = LLONG_MAX, .at_run_time = 1},
    [BINDINGS] = {.python = {"bindings", 0}, .max = 1, .words = yes_no}, /* AI.BIND on servers before Redis 7.2, too */
    [FLOWS] = {.python = {"flows", 0}, .max = 1, .words = yes_no},
    [FLOWS_MEMORY_LIMIT] = {.python = {"flows_memory_limit", 0}, .max = LLONG_MAX / MB}, /* MB; 0: none */
    {.python = {"inter_op_parallelism", 0}, .max = MAX_THREADS},
    {.python = {"intra_op_parallelism", 0}, .max = MAX_THREADS},
    {.python = {"backend_memory_limit", 0}, .max = LLONG_MAX / MB}, /* MB; 0: none */
    {.python = {"allow_file_ops", 0}, .max = 1},                    /* 1: models may touch files and run Python */
    {.python = {"model_chunk_size", MODEL_CHUNK_SIZE},
     .min = 1,
     .max = LLONG_MAX,
     .at_run_time = 1,
     .changed = model_set_chunk_size},
};

typedef struct TextOption {
    const char *name;         /* NULL: no more */
    RedisModuleString *value; /* empty: none */
    unsigned flags;           /* REDISMODULE_CONFIG_... */
} TextOption;

/* Like the folder that a server writes to (dir), the folder that it runs code from is protected. */
#define BACKENDS_PATH 0
#define PYTHON 1
#define ONNX_CUSTOM_OPS 2
#define PRELOAD 3
#define FIRST_BACKEND 4 /* by number: the path from which it is loaded at start */
static TextOption texts[FIRST_BACKEND + MAX_BACKENDS + 1] = {
    [BACKENDS_PATH] = {.name = "backendspath", .flags = REDISMODULE_CONFIG_PROTECTED},
    [PYTHON] = {.name = "python", .flags = REDISMODULE_CONFIG_IMMUTABLE},
    [ONNX_CUSTOM_OPS] = {.name = "onnx_custom_ops", .flags = REDISMODULE_CONFIG_IMMUTABLE},
    [PRELOAD] = {.name = "preload", .flags = REDISMODULE_CONFIG_IMMUTABLE},
};
static pthread_mutex_t text_mutex = PTHREAD_MUTEX_INITIALIZER; /* the main thread sets texts, the loader copies one */

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

static void assign(OptionRow *option, int64_t value) {
    option->python.value = value;
    if (option->changed) option->changed(value);
}

static int word_number(const OptionRow *option, const RedisModuleString *text) {
    for (int i = 0; option->words[i]; i++) {
        if (arg_is(text, option->words[i])) return i;
    }
    return -1;
}

int option_set(OptionRow *option, const RedisModuleString *text) {
    long long value;
    if (option->words) {
        int number = word_number(option, text);
        if (number == -1) return -1;
        assign(option, number);
        return 0;
    }
    if (RedisModule_StringToLongLong(text, &value) == REDISMODULE_ERR) return -1;
    if (value < option->min || value > option->max) return -1;
    assign(option, value);
    return 0;
}

int is_isolated(void) { return options[ISOLATION].python.value != 0; }
int64_t isolation_memory_limit(void) { return options[ISOLATION_MEMORY_LIMIT].python.value; }
int64_t model_execution_timeout(void) { return options[MODEL_EXECUTION_TIMEOUT].python.value; }
int64_t model_load_timeout(void) { return options[MODEL_LOAD_TIMEOUT].python.value; }
int64_t max_queued(void) { return options[MAX_QUEUED].python.value; }
int64_t max_queued_bytes(void) { return options[MAX_QUEUED_BYTES].python.value; }
int64_t threads_per_queue(void) { return options[THREADS_PER_QUEUE].python.value; }
int bindings_option(void) { return options[BINDINGS].python.value != 0; }
int flows_option(void) { return options[FLOWS].python.value != 0; }
int64_t flows_memory_limit(void) { return options[FLOWS_MEMORY_LIMIT].python.value; }
int safe_start(void) { return options[SAFE_START].python.value != 0; }

/* ---- paths ------------------------------------------------------------------------------------------------------- */

const char *options_module_folder(void) {
    static char folder[PATH_MAX];
    Dl_info info;
    if (folder[0]) return folder;
    if (!dladdr((void *)options_module_folder, &info) || realpath(info.dli_fname, folder) == NULL) return NULL;
    *strrchr(folder, '/') = '\0';
    return folder;
}

static void set_text(TextOption *option, const char *text, size_t size) {
    RedisModuleString *value = RedisModule_CreateString(NULL, text, size);
    pthread_mutex_lock(&text_mutex);
    RedisModuleString *old = option->value;
    option->value = value;
    pthread_mutex_unlock(&text_mutex);
    if (old) RedisModule_FreeString(NULL, old);
}

static void copy_text(TextOption *option, const RedisModuleString *value) {
    size_t size;
    const char *text = RedisModule_StringPtrLen(value, &size);
    set_text(option, text, size);
}

void options_set_backends_path(const RedisModuleString *path) { copy_text(&texts[BACKENDS_PATH], path); }

void options_set_backend_to_load(int backend, const char *path) {
    set_text(&texts[FIRST_BACKEND + backend], path, strlen(path));
}

void options_set_onnx_custom_ops(const char *paths) { set_text(&texts[ONNX_CUSTOM_OPS], paths, strlen(paths)); }

char *bridge_backends_path(void) {
    pthread_mutex_lock(&text_mutex);
    char *copy = arg_copy(texts[BACKENDS_PATH].value, NULL);
    pthread_mutex_unlock(&text_mutex);
    return copy;
}

void bridge_free(char *text) { RedisModule_Free(text); }

static const char *text_or_null(int option) {
    const char *text = arg_text(texts[option].value);
    return *text ? text : NULL;
}

const char *bridge_backend_to_load(int backend) { return text_or_null(FIRST_BACKEND + backend); }
const char *bridge_onnx_custom_ops(void) { return text_or_null(ONNX_CUSTOM_OPS); }
const char *options_python(void) { return text_or_null(PYTHON); }

int options_preload(void) {
    int backends = 0;
    for (const char *text = arg_text(texts[PRELOAD].value); *text;) {
        size_t size = strcspn(text, ",");
        int i = 0;
        while (backend_row(i) && (strlen(backend_name(i)) != size || strncasecmp(text, backend_name(i), size))) i++;
        if (backend_row(i) == NULL) return -1;
        backends |= 1 << i;
        text += size + (text[size] == ',');
    }
    return backends;
}

static int check_preload(RedisModuleCtx *ctx) {
    if (options_preload() != -1) return REDISMODULE_OK;
    return log_refusal(ctx,
                       "invalid value '%s' for PRELOAD: TF, TFLITE, TORCH, ONNX, or some of them with commas "
                       "between them, are needed",
                       arg_text(texts[PRELOAD].value));
}

/* ---- the arguments of loadmodule --------------------------------------------------------------------------------- */

static int parse_option(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleString *value) {
    OptionRow *option = option_named(name);
    if (option) {
        if (option_set(option, value) == 0) return REDISMODULE_OK;
        if (option->words) {
            return log_refusal(ctx, "invalid value '%s' for %s: %s or %s is needed", arg_text(value), arg_text(name),
                               option->words[0], option->words[1]);
        }
        return log_refusal(ctx, "invalid value '%s' for %s: a number from %lld to %lld is needed", arg_text(value),
                           arg_text(name), (long long)option->min, (long long)option->max);
    }
    for (TextOption *text = texts; text->name; text++) {
        if (!arg_is(name, text->name)) continue;
        copy_text(text, value);
        return REDISMODULE_OK;
    }
    return log_refusal(ctx, "unknown option '%s'", arg_text(name));
}

static int parse_arguments(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (options_module_folder() == NULL) return log_refusal(ctx, "cannot find the folder of redisai.so");
    for (int i = 0; backend_row(i); i++) {
        texts[FIRST_BACKEND + i] = (TextOption){.name = backend_name(i), .flags = REDISMODULE_CONFIG_IMMUTABLE};
    }
    for (TextOption *text = texts; text->name; text++) set_text(text, "", 0);
    char path[PATH_MAX + 16];
    int size = snprintf(path, sizeof(path), "%s/backends", options_module_folder());
    set_text(&texts[BACKENDS_PATH], path, size);
    if (argc % 2) return log_refusal(ctx, "options come in pairs: NAME value, but an odd number of words was given");
    for (int i = 0; i < argc; i += 2) {
        if (parse_option(ctx, argv[i], argv[i + 1]) == REDISMODULE_ERR) return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}

/* ---- CONFIG ------------------------------------------------------------------------------------------------------ */

static long long get_number(const char *name, void *option) { return ((OptionRow *)option)->python.value; }

static int get_word(const char *name, void *option) { return (int)((OptionRow *)option)->python.value; }

static int set_word(const char *name, int value, void *option, RedisModuleString **error) {
    assign(option, value);
    return REDISMODULE_OK;
}

static int set_number(const char *name, long long value, void *option, RedisModuleString **error) {
    assign(option, value); /* the server has checked the limits */
    return REDISMODULE_OK;
}

static RedisModuleString *get_string(const char *name, void *option) { return ((TextOption *)option)->value; }

static int set_string(const char *name, RedisModuleString *value, void *option, RedisModuleString **error) {
    copy_text(option, value);
    return REDISMODULE_OK;
}

/* ai.threads-per-queue is THREADS_PER_QUEUE. */
static const char *config_name(const char *option) {
    static char name[64];
    snprintf(name, sizeof(name), "%s", option);
    for (char *at = name; *at; at++) *at = *at == '_' ? '-' : (char)tolower(*at);
    return name;
}

/* The default is what the arguments say, so CONFIG REWRITE leaves alone what loadmodule's line sets. It writes a line
 * of its own for a value that was changed later: that line must prevail over loadmodule's at the next start. */
static int register_configs(RedisModuleCtx *ctx) {
    int refused = 0;
    for (OptionRow *option = options; option_row(option - options); option++) {
        unsigned flags = option->at_run_time ? REDISMODULE_CONFIG_DEFAULT : REDISMODULE_CONFIG_IMMUTABLE;
        if (option->words) {
            static const int numbers[] = {0, 1};
            refused |= RedisModule_RegisterEnumConfig(ctx, config_name(option->python.name), (int)option->python.value,
                                                      flags, (const char **)option->words, numbers, 2, get_word,
                                                      set_word, NULL, option);
            continue;
        }
        refused |= RedisModule_RegisterNumericConfig(ctx, config_name(option->python.name), option->python.value, flags,
                                                     option->min, option->max, get_number, set_number, NULL, option);
    }
    for (TextOption *text = texts; text->name; text++) {
        refused |= RedisModule_RegisterStringConfig(ctx, config_name(text->name), arg_text(text->value), text->flags,
                                                    get_string, set_string, NULL, text);
    }
    return refused || RedisModule_LoadConfigs(ctx) ? REDISMODULE_ERR : REDISMODULE_OK;
}

int options_load(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return parse_arguments(ctx, argv, argc) || register_configs(ctx) || check_preload(ctx) ? REDISMODULE_ERR
                                                                                           : REDISMODULE_OK;
}
