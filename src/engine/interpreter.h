/* interpreter.h - the embedded Python interpreter. */
#pragma once

#include "redis/api.h"

/* Starts the interpreter in a thread of its own, which becomes the loader, and waits until it can take jobs. Logs the
 * reason and returns REDISMODULE_ERR when it cannot start. Main thread, at load. */
int engine_start(RedisModuleCtx *ctx);

/* If the load is refused later, the code that threads run must stay mapped. */
void engine_stay_mapped(void);

/* bin/python of the environment that the engine runs in. Logs the reason and returns REDISMODULE_ERR if there is none.
 */
int engine_find_python(RedisModuleCtx *ctx, char *python, size_t size);

/* Waits until the engine of this process can take jobs. Returns why it cannot, or NULL. Any thread. */
const char *engine_wait_started(void);

/* Makes environ the present one of the server's program: setenv() elsewhere frees what environ was before. While no
 * other thread may call setenv(). */
void engine_take_environment(void);
