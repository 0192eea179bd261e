/* ThreadSanitizer of gcc 12 knows pthreads but not C11 threads, which librdkafka starts: a thread that it has not seen ends the program. Under SAN=thread,
 * and only then, these stand before libc's. librdkafka itself is not instrumented; what it does inside says nothing about us. Any thread. */
#include "support.h"

#ifdef __SANITIZE_THREAD__
#include <pthread.h>
#include <threads.h>

struct start {
	thrd_start_t fn;
	void *arg;
};

const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:librdkafka.so\ncalled_from_lib:liblz4.so\n"; /* which it calls to unpack batches */
}

static void *begin(void *arg)
{
	struct start s = *(struct start *)arg;

	free(arg);
	return (void *)(intptr_t)s.fn(s.arg);
}

int thrd_create(thrd_t *ret, thrd_start_t fn, void *arg)
{
	struct start *s = malloc(sizeof(*s));

	if (!s)
		return thrd_nomem;
	*s = (struct start){ fn, arg };
	if (pthread_create(ret, NULL, begin, s) == 0)
		return thrd_success;
	free(s);
	return thrd_error;
}

int thrd_join(thrd_t thread, int *ret)
{
	void *result = NULL;

	if (pthread_join(thread, &result) != 0)
		return thrd_error;
	if (ret)
		*ret = (int)(intptr_t)result;
	return thrd_success;
}
#endif
