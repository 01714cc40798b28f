/* A libnvidia-ml.so.1 with one card: it notes who opens it, and whether a fork uses what its parent had opened.

   REHEARSAL_LOG: file that a line is added to for each event, "nvml PID PPID WORDS".
   REHEARSAL_NVML_CUDA: the version of CUDA that the driver serves, e.g. 12040; 13000 by default.
   REHEARSAL_MIG: the card is divided.   REHEARSAL_PID: a process that computes on it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
static int opened, opened_by;
static const char *UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6";

static int number(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }
static void note(const char *words) {
    FILE *file = getenv("REHEARSAL_LOG") ? fopen(getenv("REHEARSAL_LOG"), "a") : NULL;
    if (!file) return;
    fprintf(file, "nvml %d %d %s%s\n", getpid(), getppid(), words, opened && opened_by != getpid() ? " inherited" : "");
    fclose(file);
}
static int start(void) { note("opened"); if (!opened++) opened_by = getpid(); return SUCCESS; }
int nvmlInit(void) { return start(); }
int nvmlInit_v2(void) { return start(); }
int nvmlInitWithFlags(unsigned flags) { return start(); }
int nvmlShutdown(void) {
    if (!opened) return UNINITIALIZED;
    note("closed");
    opened--;
    return SUCCESS;
}

static int asked(void) { if (opened && opened_by != getpid()) note("asked"); return opened ? SUCCESS : UNINITIALIZED; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return asked(); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) { *card = (void *)1; return index ? NOT_FOUND : asked(); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **card) { *card = (void *)1; return strcmp(uuid, UUID) ? NOT_FOUND : asked(); }
int nvmlDeviceGetUUID(void *card, char *text, unsigned size) { snprintf(text, size, "%s", UUID); return asked(); }
int nvmlDeviceGetName(void *card, char *text, unsigned size) { snprintf(text, size, "NVIDIA Rehearsal"); return asked(); }
typedef struct { unsigned long long total, free, used; } memory;
int nvmlDeviceGetMemoryInfo(void *card, memory *found) {
    *found = (memory){16ull << 30, 15ull << 30, 1ull << 30};
    return asked();
}
int nvmlDeviceGetMigMode(void *card, unsigned *now, unsigned *next) { *now = *next = number("REHEARSAL_MIG", 0); return asked(); }
int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    snprintf(text, size, number("REHEARSAL_NVML_CUDA", 13000) < 13000 ? "550.54.14" : "580.65.06");
    return asked();
}
int nvmlSystemGetCudaDriverVersion(int *version) { *version = number("REHEARSAL_NVML_CUDA", 13000); return asked(); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process;
int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *count, process *found) {
    unsigned there = getenv("REHEARSAL_PID") ? 1 : 0, room = *count;
    *count = there;
    if (room < there) return INSUFFICIENT_SIZE;
    if (there) *found = (process){number("REHEARSAL_PID", 0), 1 << 20, -1, -1};
    return asked();
}
int nvmlDeviceGetClockInfo(void *card, int kind, unsigned *mhz) { *mhz = kind == 1 ? 2700 : 10500; return asked(); }
int nvmlDeviceGetTemperature(void *card, int kind, unsigned *celsius) { *celsius = 50; return asked(); }
int nvmlDeviceGetPowerUsage(void *card, unsigned *milliwatts) { *milliwatts = 100000; return asked(); }
int nvmlDeviceGetPerformanceState(void *card, int *state) { *state = 8; return asked(); }
int nvmlDeviceGetCurrentClocksEventReasons(void *card, unsigned long long *reasons) { *reasons = 0; return asked(); }
int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *millijoules) { /* 100 W, ten updates a second */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = ((unsigned long long)now.tv_sec * 10 + now.tv_nsec / 100000000) * 10000;
    return asked();
}
const char *nvmlErrorString(int error) { return "an error of the stub"; }
