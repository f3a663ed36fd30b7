/* divisions.h - divisions of integers that have no result do not end the process. */
#pragma once

#include "redis/api.h"

/* At load, main thread; in an engine process (ctx NULL), before any library is imported. */
void divisions_init(RedisModuleCtx *ctx);
