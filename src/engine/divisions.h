/* divisions.h - divisions of integers that have no result do not end the process. */
#pragma once

#include "redis/api.h"

/* At load, main thread. */
void divisions_init(RedisModuleCtx *ctx);
