/* batch.h - which ops may run as one batch, and their tensors put together and taken apart. */
#ifndef BATCH_H
#define BATCH_H

#include "bridge.h"

/* Sets lane and rows of an op whose inputs are there. */
void batch_describe(Op *op);

#endif
