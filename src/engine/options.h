/* options.h - the load-time options: one row each, which INFO, CONFIG, AI.CONFIG and Python read.
 *
 * Set on the main thread. Only options marked `at_run_time` change after load. */
#pragma once

#include "bridge.h"
#include "redis/api.h"

typedef struct OptionRow {
    Option python; /* name and value; the value is the default until it is set */
    int64_t min, max;
    const char *const *words;       /* what the numbers from 0 are called; NULL: they are numbers */
    int at_run_time;                /* CONFIG SET and AI.CONFIG set it */
    void (*changed)(int64_t value); /* told of each new value; NULL: nobody needs it */
} OptionRow;

/* Reads the arguments of loadmodule, then what redis.conf and MODULE LOADEX set by CONFIG's names, which prevails.
 * Returns REDISMODULE_ERR when one is bad, and the reason is logged. */
int options_load(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);

/* By index; NULL: no more. */
OptionRow *option_row(int index);

/* By name, in any case; NULL: there is none. */
OptionRow *option_named(const RedisModuleString *name);

/* -1, changing nothing, where the text is no number within the limits, or none of the words. */
int option_set(OptionRow *option, const RedisModuleString *text);

#define MB 1000000 /* bytes, in options */

int64_t threads_per_queue(void);
int64_t isolation_memory_limit(void);  /* MB a device; 0: none */
int64_t model_execution_timeout(void); /* ms, like the next */
int64_t model_load_timeout(void);      /* 0: none */
int64_t max_queued(void);              /* runs that may wait on the server; 0: any number, likewise for the next */
int64_t max_queued_bytes(void);        /* of their inputs */
int bindings_option(void);
int flows_option(void);
int64_t flows_memory_limit(void); /* MB; 0: none */
int is_isolated(void);

/* Whether only runs compile what a database, an AOF or a master brings. */
int safe_start(void);

/* The folder of the backends; bridge_backends_path() returns it. */
void options_set_backends_path(const RedisModuleString *path);

/* In an engine process: what bridge_backend_to_load() and bridge_onnx_custom_ops() return. */
void options_set_backend_to_load(int backend, const char *path);
void options_set_onnx_custom_ops(const char *paths);

/* The backends that PRELOAD names, a bit each by its number. */
int options_preload(void);

/* bin/python to embed, or NULL: find one. */
const char *options_python(void);

/* The folder that this .so lies in, symbolic links resolved; never freed. NULL when it cannot be found. */
const char *options_module_folder(void);
