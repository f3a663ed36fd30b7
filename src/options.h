/* options.h - load-time options and AI.CONFIG.
 *
 * Set on the main thread. Python sees the first part (struct Options of bridge.h), which never changes after load. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "bridge.h"
#include "redis_api.h"

typedef struct ModuleOptions {
    Options engine;
    long long model_chunk_size; /* bytes */
    char *backends_path;        /* main thread sets, loader copies: under backends_path_mutex of options.c */
    char *python;               /* bin/python to embed, or NULL: found at start (engine.c) */
    char *load[4];              /* by BACKEND_...: path of the backend to import at start, or NULL */
} ModuleOptions;

extern ModuleOptions options;

/* Reads the arguments of loadmodule. Logs the reason and returns REDISMODULE_ERR when one is bad. */
int options_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);

/* path itself when it is absolute, else below the backends path; the caller frees it. */
char *options_backend_path(const char *path);

/* The folder this .so lies in, symbolic links resolved; never freed. NULL when it cannot be found. */
const char *options_module_folder(void);

int config_command_register(RedisModuleCtx *ctx);

#endif
