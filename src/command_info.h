/* command_info.h - what COMMAND DOCS, COMMAND GETKEYS and redis-cli's hints know of the commands. */
#ifndef COMMAND_INFO_H
#define COMMAND_INFO_H

#include "redis_api.h"

/* Describes every command of the module; after they are created. Main thread, at load. */
int command_info_register(RedisModuleCtx *ctx);

#endif
