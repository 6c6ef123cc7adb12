module collector

go 1.25

require (
	go.opentelemetry.io/proto/slim/otlp v1.7.1
	google.golang.org/protobuf v1.36.6
)
