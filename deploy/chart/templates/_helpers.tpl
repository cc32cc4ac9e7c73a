{{/* One installation a cluster: the CSIDriver is the cluster's, and so names are fixed. */}}

{{- define "attache.chart" -}}
{{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that a pod is found by: never changed, since a selector cannot be. Takes a component. */}}
{{- define "attache.selector" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: attache
{{- end }}

{{/* Labels of every object. Takes (list root component). */}}
{{- define "attache.labels" -}}
{{- $root := index . 0 -}}
{{ include "attache.selector" (index . 1) }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ include "attache.chart" $root }}
{{- end }}

{{- define "attache.broker.image" -}}
{{ .Values.broker.image | default (printf "attache.dev/attache-broker:%s" .Chart.AppVersion) }}
{{- end }}

{{- define "attache.plugin.image" -}}
{{ .Values.plugin.image | default (printf "attache.dev/attache-node-plugin:%s" .Chart.AppVersion) }}
{{- end }}

{{- define "attache.broker.id" -}}
spiffe://{{ .Values.trustDomain }}/broker/{{ .Values.broker.name }}
{{- end }}

{{/* cluster-trust-bundle or config-map: decided here once, for the broker that publishes and for the plugin that mounts. */}}
{{- define "attache.bundle" -}}
{{- if ne .Values.trust.bundle "auto" -}}
{{ .Values.trust.bundle }}
{{- else if .Capabilities.APIVersions.Has "certificates.k8s.io/v1/ClusterTrustBundle" -}}
cluster-trust-bundle
{{- else -}}
config-map
{{- end -}}
{{- end }}

{{/* What every container of ours has but the mounter. */}}
{{- define "attache.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "attache.scraped" -}}
{{- if .Values.monitoring.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "9443"
prometheus.io/path: /metrics
{{- end }}
{{- end }}
