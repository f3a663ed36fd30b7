/* divisions.c - integer divisions of libraries whose result does not fit (divisions.h).
 *
 * The smallest integer divided by -1 is one more than the largest. x86 processors end the process for it (SIGFPE), and
 * ONNX Runtime, TensorFlow Lite and PyTorch divide what clients send without a check. Here such a division gets the
 * result that it has on Arm and in NumPy: the smallest integer again, remainder 0. Then the thread continues.
 *
 * Everything else is left to the server's crash report: other instructions, divisions by zero, and the main thread,
 * which runs no library. No state but the server's own handler. */
#include "engine/divisions.h"

#ifndef __x86_64__
void divisions_init(void) {} /* Arm's processors divide so */
#else
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>
#include <unistd.h>

#define IDIV 7          /* its number among the instructions of the group F7 */
#define IN_A_REGISTER 3 /* of ModRM's field mod */
#define WITH_SIB 4      /* of ModRM's field rm */
#define NO_BASE 5       /* of ModRM's rm and SIB's base, where mod is 0: four bytes of an address follow */
#define REX_B 1         /* the divisor is in one of the registers 8 to 15 */
#define REX_W 8         /* 64 bits */

static struct sigaction servers; /* its handler */

static const int registers[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* Bytes of ModRM and what belongs to it. */
static int operand_size(const uint8_t *modrm) {
    int mod = *modrm >> 6, base = *modrm & 7, size = 1;
    if (mod == IN_A_REGISTER) return size;
    if (base == WITH_SIB) base = modrm[size++] & 7;
    return size + (mod == 1 ? 1 : mod == 2 || base == NO_BASE ? 4 : 0);
}

/* Whether the thread is at a division of the smallest integer that failed; then performs it. The divisor is -1 or 0.
 * Libraries compare it with 0 before they divide. Where it is in a register, so does this. */
static int divide(greg_t *now) {
    const uint8_t *at = (const uint8_t *)now[REG_RIP];
    int rex = (*at & 0xf0) == 0x40 ? *at++ : 0;
    if (at[0] != 0xf7 || (at[1] >> 3 & 7) != IDIV) return 0;
    int64_t low = now[REG_RAX], high = now[REG_RDX];
    int is_smallest = rex & REX_W ? low == INT64_MIN && high == -1 : (int32_t)low == INT32_MIN && (int32_t)high == -1;
    if (!is_smallest) return 0;
    int number = (at[1] & 7) | (rex & REX_B) << 3;
    if (at[1] >> 6 == IN_A_REGISTER && (int32_t)now[registers[number]] == 0) return 0;
    now[REG_RAX] = rex & REX_W ? INT64_MIN : (int64_t)(uint32_t)INT32_MIN;
    now[REG_RDX] = 0;
    now[REG_RIP] = (greg_t)(at + 1 + operand_size(at + 1));
    return 1;
}

static void on_failed_division(int signal, siginfo_t *info, void *context) {
    if (info->si_code == FPE_INTDIV && gettid() != getpid() && divide(((ucontext_t *)context)->uc_mcontext.gregs))
        return;
    sigaction(SIGFPE, &servers, NULL); /* the thread executes the instruction again, and the server reports it */
}

void divisions_init(void) {
    struct sigaction action = {.sa_sigaction = on_failed_division, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGFPE, &action, &servers);
}
#endif
