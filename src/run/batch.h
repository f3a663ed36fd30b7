/* batch.h - which ops may share a batch. bridge.h has what joins and splits their tensors. */
#ifndef RUN_BATCH_H
#define RUN_BATCH_H

#include "bridge.h"

/* Sets batch_key and rows of an op whose inputs are complete. */
void batch_describe(Op *op);

#endif
