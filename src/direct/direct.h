/* direct.h - what the libraries' files share. Each has one run function, named in the switch of direct.c. */
#pragma once

#include "bridge.h"

/* Runs one op that fits, and sets its outputs. Returns NULL, or the library's error, allocated by RedisModule_Strdup.
 * options: as the backend's begin() gave them. */
typedef char *DirectRun(const Direct *direct, Op *op, const void *options);

DirectRun onnx_run;  /* onnxruntime.c */
DirectRun tf_run;    /* tensorflow.c */
DirectRun torch_run; /* torch.c */
