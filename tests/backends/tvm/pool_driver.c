/* Drives the pool of a model named `pool` the way hosts do: several callers, fork, a pool of the host. Prints "ok". */
#include "pool_threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXTENT = 97, TASKS = 4, MOST = 4 };

/* Each iteration counts itself; a task that ran twice at the same time would break its counter. */
static void part(const void *const *arguments, int32_t task, int32_t begin, int32_t end) {
  int *const counts = (int *)(uintptr_t)arguments[0];
  int *const inside = (int *)(uintptr_t)arguments[1];
  if (task < 0 || task >= TASKS || inside[task * 16]++ != 0) abort();
  for (int32_t k = begin; k < end; ++k) ++counts[k];
  inside[task * 16]--;
}

static void jobs(const lepton_pool *pool, int rounds) {
  int counts[EXTENT] = {0}, inside[TASKS * 16] = {0};
  const void *const arguments[] = {counts, inside};
  int expected[EXTENT] = {0};
  for (int round = 0; round < rounds; ++round) {
    const int32_t extent = 1 + round % EXTENT;
    pool_share(pool, part, arguments, extent, 1 + round % 3, 1 + round % TASKS);
    for (int k = 0; k < extent; ++k) ++expected[k];
    if (memcmp(counts, expected, sizeof counts) != 0) abort();
  }
}

/* Runs of twenty jobs on the model's own threads. */
static void own_jobs(int rounds) {
  for (; rounds > 0; rounds -= 20) {
    pool_enter();
    jobs(NULL, rounds < 20 ? rounds : 20);
    pool_leave();
    if (rounds % 400 == 0) usleep(300); /* the threads fall asleep */
  }
}

static void *call(void *rounds) {
  own_jobs((int)(intptr_t)rounds);
  return NULL;
}

typedef struct {
  void (*task)(void *, int32_t);
  void *data;
  int32_t k;
} one;

static void *run_one(void *given) {
  const one *const o = given;
  o->task(o->data, o->k);
  return NULL;
}

static void on_new_threads(void *context, int32_t count, void (*task)(void *data, int32_t k), void *data) {
  pthread_t threads[TASKS];
  one ones[TASKS];
  (void)context;
  if (count > TASKS) abort();
  for (int32_t k = 0; k < count; ++k) {
    ones[k] = (one){task, data, k};
    if (pthread_create(&threads[k], NULL, run_one, &ones[k]) != 0) abort();
  }
  for (int32_t k = 0; k < count; ++k) pthread_join(threads[k], NULL);
}

static void backwards(void *context, int32_t count, void (*task)(void *data, int32_t k), void *data) {
  (void)context;
  while (count-- > 0) task(data, count);
}

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 1000, forks = argc > 2 ? atoi(argv[2]) : 0;
  const int count = argc > 3 ? atoi(argv[3]) : MOST;
  pthread_t callers[MOST];
  for (int k = 0; k < count; ++k) pthread_create(&callers[k], NULL, call, (void *)(intptr_t)rounds);
  for (int k = 0; k < forks; ++k) { /* while the others are at work */
    const pid_t child = fork();
    if (child == 0) {
      own_jobs(200);
      exit(0); /* with the destructors */
    }
    int status = 1;
    if (waitpid(child, &status, 0) != child || status != 0) abort();
  }
  for (int k = 0; k < count; ++k) pthread_join(callers[k], NULL);
  jobs(&(lepton_pool){NULL, TASKS, on_new_threads}, rounds / 10);
  jobs(&(lepton_pool){NULL, 3, on_new_threads}, rounds / 10);
  jobs(&(lepton_pool){NULL, TASKS, backwards}, rounds);
  jobs(&(lepton_pool){NULL, TASKS, NULL}, rounds);
  jobs(&(lepton_pool){NULL, 0, backwards}, rounds);
  puts("ok");
  return 0;
}
