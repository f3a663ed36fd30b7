/* info.h - the sections that the module adds to INFO, and AI.INFO. */
#ifndef INFO_H
#define INFO_H

#include "redis_api.h"

int info_register(RedisModuleCtx *ctx);

#endif
