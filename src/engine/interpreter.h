/* interpreter.h - the embedded Python interpreter. */
#pragma once

#include "redis/api.h"

/* Starts the interpreter in a thread of its own, which becomes the loader, and waits until it can take jobs. Logs the
 * reason and returns REDISMODULE_ERR when it cannot start. Main thread, at load. */
int engine_start(RedisModuleCtx *ctx);
