/* commands.h - the commands, one file a family. Main thread only. */
#ifndef COMMANDS_COMMANDS_H
#define COMMANDS_COMMANDS_H

#include "redis/api.h"

/* At load. Each registers the commands of its family. */
int tensor_commands_register(RedisModuleCtx *ctx);
int model_commands_register(RedisModuleCtx *ctx);
int model_run_commands_register(RedisModuleCtx *ctx);
int script_commands_register(RedisModuleCtx *ctx);
int script_run_commands_register(RedisModuleCtx *ctx);
int dag_commands_register(RedisModuleCtx *ctx);
int info_register(RedisModuleCtx *ctx); /* and the module's sections of INFO */
int config_command_register(RedisModuleCtx *ctx);
int command_info_register(RedisModuleCtx *ctx);

#endif
